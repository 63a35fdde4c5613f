## Inference for the reference fits: writes data/reference/inference/<id>.json.
##
##   Rscript tests/reference/inference.R [regular expression of ids] [output folder]
##
## from the top of a checkout. Needs lmerTest, pbkrtest, emmeans and performance.

arguments <- commandArgs(TRUE)
OUT <- if (length(arguments) > 1) arguments[2] else "data/reference"
Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/lmm.R")
source("tests/reference/profile.R")
suppressMessages({
  library(lmerTest)
  library(pbkrtest)
  library(emmeans)
  library(performance)
})
emm_options(lmerTest.limit = 1e5, pbkrtest.limit = 1e5)

## What to compute, by letter:
##   S Satterthwaite   K Kenward-Roger     P lme4's profile    X exact profile end points
##   R ranova          D drop1             F performance       M estimated marginal means
##   I influence       C deletion of rows  G deletion of groups
REQUESTS <- list()
request <- function(id, sections, groups = NULL, lrt = NULL, means = NULL) {
  REQUESTS[[id]] <<- list(id = id, sections = strsplit(sections, "")[[1]], groups = groups,
    lrt = lrt, means = means)
}
request("dyestuff_ri_reml", "SKPXFRICG", groups = "Batch")
request("dyestuff2_ri_reml", "SPR")
request("rail_ri_reml", "SKPXFRICG", groups = "Rail")
request("sleep_slope_reml", "SKPXFRDIG", groups = "Subject",
  lrt = list(zcp = "Reaction ~ Days + (Days || Subject)",
    ri = "Reaction ~ Days + (1 | Subject)", nofix = "Reaction ~ 1 + (Days | Subject)"))
request("sleep_slope_ml", "SPXFD")
request("sleep_zcp_reml", "SKPXFRDI", lrt = list(ri = "Reaction ~ Days + (1 | Subject)"))
request("sleep_w_reml", "SPXRDI")
request("penicillin_reml", "SKPXFRIG", groups = "sample",
  lrt = list(noplate = "diameter ~ 1 + (1 | sample)"))
request("pastes_nested_reml", "SKPXFRIG", groups = "batch",
  lrt = list(cask_only = "strength ~ 1 + (1 | batch:cask)"))
request("ergo_ri_reml", "SKPXFRDIGM", groups = "Subject", means = list("Type"),
  lrt = list(notype = "effort ~ 1 + (1 | Subject)"))
request("machines_wm_reml", "SKPXFRDIG", groups = "Worker")
request("machines_max_reml", "SKFRDI",
  lrt = list(wm = "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)"))
request("oats_fac_reml", "SKPFRDIGM", groups = "Block",
  means = list("nitro_f", c("Variety", "nitro_f")),
  lrt = list(additive = "Yield ~ nitro_f + Variety + (1 | Block/Variety)"))
request("oats_num_reml", "SKPXFRDI")
request("cake_ord_reml", "SKFRDM", means = list("recipe", "temperature"),
  lrt = list(additive = "angle ~ recipe + temperature + (1 | recipe:replicate)"))
request("cake_cell_reml", "SKR")
request("ortho_slope_reml", "SKPXFRDIG", groups = "Subject",
  lrt = list(ri = "distance ~ age * Sex + (1 | Subject)",
    additive = "distance ~ age + Sex + (age | Subject)"))
request("alfalfa_nested_reml", "SKPFRDIM", means = list("Date"))
request("carrots_crossed_reml", "SRD")
request("dietox_slope_reml", "SKFRD")
request("gasoline_ri_reml", "SKPXFRDIC")
request("exam_slope_reml", "SFRD")

## An error becomes a list element that is left out of the file and reported.
attempt <- function(e) {
  tryCatch(quiet(e), error = function(er) list(error = conditionMessage(er)))
}

columns <- function(x) {
  x <- as.data.frame(x)
  c(list(rows = arr(rownames(x))), lapply(as.list(x), arr))
}

coefficient_table <- function(m, ddf) {
  cf <- coef(summary(m, ddf = ddf))
  list(coef_names = arr(rownames(cf)), estimate = arr(cf[, 1]), se = arr(cf[, 2]),
    df = arr(cf[, 3]), t = arr(cf[, 4]), p = arr(cf[, 5]))
}

satterthwaite <- function(m) {
  one_type <- function(type) attempt({
    a <- anova(m, type = type, ddf = "Satterthwaite")
    c(columns(a), list(L = lapply(show_tests(a, names = TRUE), function(L) unname(as.matrix(L)))))
  })
  tables <- lapply(c(I = "I", II = "II", III = "III"), one_type)
  c(coefficient_table(m, "Satterthwaite"), list(anova = tables))
}

kenward_roger <- function(m, plain) {
  detail <- function(L) {
    L <- as.matrix(L)
    s <- lapply(pbkrtest::KRmodcomp(plain, L)$stats, unname)
    list(L = unname(L), F_scaled = s$Fstat, F_unscaled = s$FstatU, F_scaling = s$F.scaling,
      ndf = s$ndf, ddf = s$ddf, p = s$p.value, p_unscaled = s$p.valueU)
  }
  tests <- attempt({
    contrasts <- show_tests(anova(m, type = "III"), names = TRUE)
    a <- anova(m, type = "III", ddf = "Kenward-Roger")
    c(columns(a), list(detail = lapply(contrasts, detail)))
  })
  c(coefficient_table(m, "Kenward-Roger"),
    list(vcov_adj = unname(as.matrix(pbkrtest::vcovAdj(plain))), anova_III = tests))
}

intervals_lme4 <- function(M) {
  CTRL <<- unchecked(optimizer = "bobyqa", calc.derivs = FALSE, check.conv.grad = "ignore",
    optCtrl = list(rhobeg = 0.05, rhoend = 1e-9, maxfun = 1e5), check.conv.hess = "ignore",
    check.conv.singular = "ignore")
  on.exit(CTRL <<- careful())
  m <- fit(M)
  ends <- function(ci) list(names = arr(rownames(ci)), lower = arr(ci[, 1]), upper = arr(ci[, 2]))
  list(profile = ends(confint(m, method = "profile", oldNames = FALSE, quiet = TRUE)),
    wald = ends(confint(m, method = "Wald", oldNames = FALSE)))
}

PROFILE_NOTE <- paste("lme4 1.1-31 profile end points that disagree with direct root finding by",
  "more than 0.2% of the interval width (or are NA) are null in 'profile'; use profile_exact")

## Compare lme4's profile intervals with the exact ones; end points that are off become NA.
check_profile <- function(confint, exact) {
  names <- from_json(confint$profile$names)
  lower <- as.numeric(from_json(confint$profile$lower))
  upper <- as.numeric(from_json(confint$profile$upper))
  wrong <- list()
  for (k in names(exact)) {
    e <- exact[[k]]
    i <- match(k, names)
    if (is.na(i) || !is.numeric(e$lower) || !is.numeric(e$upper)) next
    tol <- 2e-3 * (e$upper - e$lower)
    if (isTRUE(abs(lower[i] - e$lower) < tol && abs(upper[i] - e$upper) < tol)) next
    wrong[[k]] <- list(lme4 = arr(c(lower[i], upper[i])), exact = arr(c(e$lower, e$upper)))
    lower[i] <- upper[i] <- NA
  }
  if (!length(wrong)) return(confint)
  confint$profile$lower <- arr(lower)
  confint$profile$upper <- arr(upper)
  c(confint, list(profile_set_to_null = wrong, profile_note = PROFILE_NOTE))
}

likelihood_ratios <- function(M, smaller) {
  big <- fit(M, REML = FALSE)
  lapply(smaller, function(formula) attempt({
    a <- as.data.frame(anova(fit(replace(M, "formula", formula), REML = FALSE), big))
    list(small = formula, big = M$formula, npar = arr(a$npar), AIC = arr(a$AIC), BIC = arr(a$BIC),
      logLik = arr(a$logLik), deviance = arr(a$deviance), chisq = a$Chisq[2], df = a$Df[2],
      p = a[["Pr(>Chisq)"]][2])
  }))
}

refit_without <- function(M, keep) {
  full <- dat
  on.exit(dat <<- full)
  dat <<- droplevels(full[keep, , drop = FALSE])
  fit(M)
}

DELETION_NOTE <- paste("each level deleted and model refit; Cook's D = (b_(i)-b)' V^-1 (b_(i)-b)/p",
  "with V = vcov of full fit (lme4's cooks.distance.influence.merMod rescales by (m-p)/m,",
  "m = number of levels)")

deletion <- function(M, m, keeps) {
  fits <- lapply(keeps, function(keep) refit_without(M, keep))
  beta <- do.call(rbind, lapply(fits, function(f) unname(fixef(f))))
  D <- sweep(beta, 2, fixef(m))
  list(fixef_deleted = beta,
    theta_deleted = do.call(rbind, lapply(fits, function(f) unname(getME(f, "theta")))),
    sigma_deleted = arr(vapply(fits, sigma, 0)),
    cooks_distance = arr(rowSums((D %*% solve(as.matrix(vcov(m)))) * D) / ncol(beta)))
}

group_deletion <- function(M, m, group) {
  levels <- levels(dat[[group]])
  keeps <- lapply(levels, function(l) dat[[group]] != l)
  c(list(group = group, levels = arr(levels)), deletion(M, m, keeps), list(note = DELETION_NOTE))
}

row_deletion <- function(M, m) {
  rows <- seq_len(nrow(dat))
  deletion(M, m, lapply(rows, function(i) rows != i))
}

## Four rows of the data, then rows in which each grouping variable, and all of them, are new.
prediction_rows <- function(grouping) {
  n <- nrow(dat)
  old <- dat[unique(c(1, ceiling(n / 3), ceiling(n / 2), n)), , drop = FALSE]
  old[] <- lapply(old, function(v) if (is.factor(v)) as.character(v) else v)
  base <- old[ceiling(nrow(old) / 2), , drop = FALSE]
  new <- lapply(c(as.list(grouping), if (length(grouping) > 1) list(grouping)), function(g) {
    base[g] <- "NEW"
    base
  })
  rows <- do.call(rbind, c(list(old), new))
  rownames(rows) <- NULL
  rows
}

as_factors <- function(rows, grouping) {
  for (v in names(rows)) if (is.factor(dat[[v]])) {
    levels <- c(levels(dat[[v]]), if (v %in% grouping) "NEW")
    rows[[v]] <- factor(rows[[v]], levels, ordered = is.ordered(dat[[v]]) && !(v %in% grouping))
  }
  rows
}

predictions <- function(M, m) {
  formula <- as.formula(M$formula)
  bars <- findbars(formula)
  in_bars <- unique(unlist(lapply(bars, function(b) all.vars(b[[3]]))))
  grouping <- setdiff(in_bars, all.vars(nobars(formula)[[3]]))
  rows <- prediction_rows(grouping)
  newdata <- as_factors(rows, grouping)
  frame <- model.frame(delete.response(terms(m)), newdata, na.action = na.pass,
    xlev = .getXlevels(terms(m), model.frame(m, fixed.only = TRUE)))
  X <- model.matrix(delete.response(terms(m)), frame,
    contrasts.arg = attr(getME(m, "X"), "contrasts"))[, names(fixef(m)), drop = FALSE]
  guess <- function(re_form) {
    attempt(arr(predict(m, newdata = newdata, re.form = re_form, allow.new.levels = TRUE)))
  }
  partial <- lapply(bars, function(b) {
    re_form <- as.formula(paste("~ (", deparse1(b), ")"))
    list(re_form = deparse1(re_form), pred = guess(re_form))
  })
  list(newdata = lapply(as.list(rows[intersect(names(rows), all.vars(formula))]), arr),
    grouping_vars = arr(grouping), pred = guess(NULL), pred_fixed = guess(NA),
    se_fixed = arr(sqrt(rowSums((X %*% as.matrix(vcov(m))) * X))), pred_partial = partial,
    note = "level NEW is unseen: its random effects are 0; se_fixed = sqrt(diag(X V X'))")
}

marginal_means <- function(m, specs) {
  by_method <- function(method) attempt({
    e <- emmeans(m, specs = specs, lmer.df = method)
    pairs_table <- lapply(as.data.frame(summary(pairs(e, adjust = "tukey"))), arr)
    unadjusted <- summary(pairs(e, adjust = "none"))$p.value
    list(means = lapply(as.data.frame(summary(e)), arr),
      pairs = c(pairs_table, list(p_unadjusted = arr(unadjusted))))
  })
  methods <- c("kenward-roger", "satterthwaite", "asymptotic")
  c(list(specs = arr(specs)), sapply(methods, by_method, simplify = FALSE),
    list(linfct = attempt(unname(emmeans(m, specs = specs, lmer.df = "asymptotic")@linfct))))
}

first_residuals <- function(m) {
  first <- function(x) arr(head(x, 20))
  types <- c("response", "pearson", "deviance", "working")
  c(sapply(types, function(t) attempt(first(residuals(m, type = t))), simplify = FALSE),
    list(pearson_scaled = first(residuals(m, type = "pearson", scaled = TRUE)),
      marginal = first(model.response(model.frame(m)) - predict(m, re.form = NA))))
}

influence_of_rows <- function(m) {
  list(hatvalues = arr(hatvalues(m)), cooks_distance = arr(cooks.distance(m)),
    rstudent = arr(rstudent(m)))
}

variance_shares <- function(m) {
  shares <- attempt(icc(m))
  r2 <- attempt(r2_nakagawa(m))
  number <- function(x) attempt(as.numeric(unname(x)))
  list(icc_adjusted = number(shares$ICC_adjusted), icc_unadjusted = number(shares$ICC_unadjusted),
    r2_conditional = number(r2$R2_conditional), r2_marginal = number(r2$R2_marginal))
}

failed <- function(x) is.list(x) && identical(names(x), "error")

without_failures <- function(x) {
  if (!is.list(x) || is.data.frame(x)) return(x)
  lapply(Filter(Negate(failed), x), without_failures)
}

failures <- function(x, path) {
  if (failed(x)) return(paste0(path, ": ", x$error))
  if (!is.list(x)) return(character())
  keys <- if (is.null(names(x))) seq_along(x) else names(x)
  unlist(mapply(failures, x, paste0(path, "/", keys), SIMPLIFY = FALSE), use.names = FALSE)
}

SOFTWARE <- paste0("R ", getRversion(), ", ", paste(vapply(
  c("lme4", "lmerTest", "pbkrtest", "emmeans", "performance"),
  function(p) paste(p, packageVersion(p)), ""), collapse = ", "))

write_inference <- function(request) {
  M <- MODELS[[request$id]]
  wanted <- function(letter) letter %in% request$sections
  dat <<- model_data(M)
  CTRL <<- careful()
  m <- fit(M, lmer = quote(lmerTest::lmer))
  plain <- fit(M)
  o <- list(id = M$id, kind = "inference", dataset = M$data, formula = M$formula,
    call = call_text(M), REML = M$reml, weights = M$weights, subset_r = M$subset_r,
    subset_py = M$subset_py, fixef_names = arr(names(fixef(m))), fixef = arr(fixef(m)))
  if (wanted("S")) o$satterthwaite <- attempt(satterthwaite(m))
  if (wanted("K")) o$kenward_roger <- attempt(kenward_roger(m, plain))
  if (wanted("P")) o$confint <- attempt(intervals_lme4(M))
  if (wanted("X")) o$profile_exact <- attempt(exact_profile(M))
  if (wanted("P") && wanted("X")) o$confint <- check_profile(o$confint, o$profile_exact$intervals)
  if (wanted("R")) o$ranova <- attempt(columns(ranova(m)))
  if (wanted("D")) {
    o$drop1_chisq_ml <- attempt(columns(drop1(fit(M, REML = FALSE), test = "Chisq")))
    o$drop1_F_satterthwaite <- attempt(columns(drop1(m, ddf = "Satterthwaite")))
  }
  if (!is.null(request$lrt)) o$lrt_ml <- likelihood_ratios(M, request$lrt)
  o$residuals_first20 <- first_residuals(plain)
  o$predict <- attempt(predictions(M, plain))
  if (wanted("I")) o$influence_obs <- influence_of_rows(plain)
  if (wanted("C")) o$case_deletion <- attempt(row_deletion(M, plain))
  if (wanted("G")) o$group_deletion <- attempt(group_deletion(M, plain, request$groups))
  if (wanted("M")) o$emmeans <- lapply(request$means, function(s) marginal_means(m, s))
  if (wanted("F")) o$performance <- variance_shares(plain)
  o$software <- SOFTWARE
  write_json(without_failures(o), file.path(OUT, "inference", paste0(M$id, ".json")))
  cat(sprintf("%-22s %s\n", M$id, paste(c("done", failures(o, "")), collapse = " | ")))
}

dir.create(file.path(OUT, "inference"), recursive = TRUE, showWarnings = FALSE)
ids <- grep(if (length(arguments)) arguments[1] else "", names(REQUESTS), value = TRUE)
for (id in ids) write_inference(REQUESTS[[id]])
