## Analysis of variance, types I to III, and tests of contrasts, with both degrees of freedom, for
## designs that are not balanced: writes data/reference/extra/anova.json.
##
##   Rscript tests/reference/anova.R [output file]
##
## from the top of a checkout. Needs lmerTest and pbkrtest.

arguments <- commandArgs(TRUE)
OUT <- if (length(arguments)) arguments[1] else "data/reference/extra/anova.json"
Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/lmm.R")
suppressMessages({
  library(lmerTest)
  library(pbkrtest)
})

## Rows to leave out are given by their numbers, counted from 1; `sum` asks for sum contrasts.
case <- function(id, data, formula, drop = NULL, sum = NULL) {
  list(id = id, data = data, formula = formula, reml = TRUE, drop = drop, sum = sum)
}
holes <- c(2, 3, 11, 17, 18, 25, 33, 34, 40, 41, 52, 66)
CASES <- list(
  case("oats_holes", "Oats", "Yield ~ nitro_f * Variety + (1 | Block/Variety)", holes),
  case("oats_sum", "Oats", "Yield ~ nitro_f * Variety + (1 | Block/Variety)", holes,
    c("nitro_f", "Variety")),
  case("oats_covariate", "Oats", "Yield ~ nitro * Variety + (1 | Block)", holes),
  case("oats_nested_term", "Oats", "Yield ~ Variety + Variety:nitro_f + (1 | Block)", holes),
  case("oats_no_intercept", "Oats", "Yield ~ 0 + Variety + nitro + (1 | Block)", holes),
  case("machines_holes", "Machines", "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)",
    c(1, 5, 6, 20, 44)),
  case("cake_cell", "cake", "angle ~ recipe * temperature + (1 | recipe:replicate)",
    c(3, 8, 20, 21, 77, 100, 101, 160, 200, 201, 202)),
  case("dietox_three", "dietox", "Weight ~ Time * Cu * Evit + (Time | Pig)"),
  case("bodyweight", "BodyWeight", "weight ~ Time * Diet + (Time | Rat)", c(4, 9, 60, 61, 120)),
  case("spruce", "Spruce", "logSize ~ days * plot + (days | Tree)"),
  case("ergo_holes", "ergoStool", "effort ~ Type + (1 | Subject)", c(1, 6, 7, 30)),
  case("alfalfa_holes", "Alfalfa", "Yield ~ Date * Variety + (1 | Block/Variety)",
    c(1, 9, 10, 30, 31, 55)),
  case("cake_singular", "cake",
    "angle ~ recipe + I((temp - 200)/25) + (I((temp - 200)/25) | replicate)"),
  case("glucose2_singular", "Glucose2",
    "glucose ~ Time + I(Time^2) + (Time | Subject) + (1 | Subject:Date)"))

table_of <- function(m, type, ddf) {
  a <- as.data.frame(quiet(anova(m, type = type, ddf = ddf)))
  list(rows = arr(rownames(a)), sum_sq = arr(a[[1]]), mean_sq = arr(a[[2]]), df_num = arr(a[[3]]),
    df_den = arr(a[[4]]), F = arr(a[[5]]), p = arr(a[[6]]))
}

coefficient_table <- function(m, ddf) {
  cf <- coef(summary(m, ddf = ddf))
  list(names = arr(rownames(cf)), estimate = arr(cf[, 1]), se = arr(cf[, 2]), df = arr(cf[, 3]),
    p = arr(cf[, 5]))
}

## Three contrasts without meaning, one by one and together; values other than zero where lmerTest
## allows them.
contrasts_of <- function(m, ddf) {
  b <- fixef(m)
  p <- length(b)
  L <- outer(seq_len(min(3, p)), seq_len(p), function(i, j) (i * (j + 1) + i * i) %% 5 - 2)
  rhs <- if (ddf == "Satterthwaite") seq_len(nrow(L)) / 2 else rep(0, nrow(L))
  rows <- do.call(rbind, lapply(seq_len(nrow(L)), function(i)
    contest1D(m, L[i, ], rhs = rhs[i], ddf = ddf)))
  together <- contestMD(m, L, rhs = rhs, ddf = ddf)
  list(names = arr(names(b)), L = L, rhs = arr(rhs), effect = arr(rows[[1]]), se = arr(rows[[2]]),
    df = arr(rows[["df"]]), t = arr(rows[["t value"]]), p = arr(rows[["Pr(>|t|)"]]),
    df_num = together[["NumDF"]], df_den = together[["DenDF"]], F = together[["F value"]],
    p_joint = together[["Pr(>F)"]])
}

tables <- function(m, ddf) {
  types <- c(I = "I", II = "II", III = "III")
  c(lapply(types, function(type) table_of(m, type, ddf)),
    list(coefficients = quiet(coefficient_table(m, ddf)), contrasts = quiet(contrasts_of(m, ddf))))
}

record <- function(M) {
  dat <<- model_data(M)
  if (length(M$drop)) dat <<- droplevels(dat[-M$drop, ])
  for (v in M$sum) contrasts(dat[[v]]) <<- "contr.sum"
  CTRL <<- careful()
  m <- fit(M, lmer = quote(lmerTest::lmer))
  cat(M$id, "\n")
  list(id = M$id, dataset = M$data, formula = M$formula, drop = arr(M$drop),
    sum_contrasts = arr(M$sum), theta = arr(getME(m, "theta")), sigma = sigma(m),
    satterthwaite = tables(m, "Satterthwaite"), kenward_roger = tables(m, "Kenward-Roger"))
}

SOFTWARE <- paste0("R ", getRversion(), ", ", paste(vapply(c("lme4", "lmerTest", "pbkrtest"),
  function(p) paste(p, packageVersion(p)), ""), collapse = ", "))
dir.create(dirname(OUT), recursive = TRUE, showWarnings = FALSE)
write_json(list(software = SOFTWARE, cases = lapply(CASES, record)), OUT)
