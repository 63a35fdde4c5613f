## Tables of broom.mixed, and influence measures of lme4, for some of the reference fits.
##
##   Rscript tests/reference/broom.R [output file]
##
## from the top of a checkout. Needs broom.mixed, lmerTest and pbkrtest.

arguments <- commandArgs(TRUE)
OUT <- if (length(arguments)) arguments[1] else "data/reference/extra/broom.json"
Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/lmm.R")
suppressMessages({
  library(lmerTest)
  library(broom.mixed)
})

TESTED <- c("sleep_slope_reml", "machines_wm_reml", "oats_num_reml")
IDS <- c(TESTED, "sleep_slope_ml", "sleep_zcp_reml", "sleep_w_reml", "ortho_off_reml",
  "penicillin_reml", "machines_max_reml", "dyestuff2_ri_reml")
ROWS <- 20

columns <- function(x) {
  x <- as.data.frame(x)
  c(list(columns = arr(names(x))), lapply(as.list(x), arr))
}

## Refits without each group by the careful optimizer: lme4's own influence() stops earlier, and
## its dfbetas have the opposite sign.
influence_of_groups <- function(M, m, group) {
  full <- dat
  levels <- levels(full[[group]])
  fits <- lapply(levels, function(l) {
    dat <<- droplevels(full[full[[group]] != l, , drop = FALSE])
    fit(M)
  })
  dat <<- full
  V <- as.matrix(vcov(m))
  p <- ncol(V)
  rows <- function(f) do.call(rbind, lapply(fits, f))
  change <- function(f) fixef(m) - fixef(f)
  list(group = group, levels = arr(levels),
    dfbetas = unname(rows(function(f) change(f) / sqrt(diag(as.matrix(vcov(f)))))),
    mdffits = arr(rows(function(f) change(f) %*% solve(as.matrix(vcov(f)), change(f)) / p)),
    covtrace = arr(rows(function(f) abs(sum(diag(solve(V, as.matrix(vcov(f))))) - p))),
    covratio = arr(rows(function(f) det(as.matrix(vcov(f))) / det(V))),
    lme4_cooks_distance = arr(cooks.distance(quiet(influence(m, group)))))
}

record <- function(id) {
  M <- MODELS[[id]]
  dat <<- model_data(M)
  CTRL <<- careful()
  m <- fit(M)
  out <- list(
    fixef_names = arr(names(fixef(m))),
    tidy = columns(tidy(m, conf.int = TRUE)),
    tidy_vcov = columns(tidy(m, effects = "ran_pars", scales = "vcov")),
    ran_vals = columns(head(tidy(m, effects = "ran_vals", conf.int = TRUE), ROWS)),
    ran_coefs = columns(head(tidy(m, effects = "ran_coefs"), ROWS)),
    glance = columns(glance(m)),
    augment = columns(head(quiet(augment(m)), ROWS)))
  if (id %in% TESTED) {
    test <- fit(M, lmer = quote(lmerTest::lmer))
    out$satterthwaite <- columns(quiet(tidy(test, conf.int = TRUE)))
    out$kenward_roger <- columns(quiet(tidy(test, conf.int = TRUE, ddf.method = "Kenward-Roger")))
  }
  if (id == "sleep_slope_reml") out$influence <- influence_of_groups(M, m, "Subject")
  if (id == "machines_wm_reml") out$influence <- influence_of_groups(M, m, "Worker")
  cat(id, "\n")
  out
}

SOFTWARE <- paste0("R ", getRversion(), ", ", paste(vapply(
  c("lme4", "broom.mixed", "lmerTest", "pbkrtest"),
  function(p) paste(p, packageVersion(p)), ""), collapse = ", "))
write_json(list(fits = setNames(lapply(IDS, record), IDS), software = SOFTWARE), OUT)
