## data/reference/extra/means.json: marginal means beyond those of inference/, with emmeans.
## data/reference/extra/ranks.json: expected ranks with merTools.
##
##   Rscript tests/reference/means_ranks.R
##
## from the top of a checkout. Needs lmerTest, pbkrtest, emmeans and merTools.

Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/json.R")
source("tests/reference/data.R")
suppressMessages({
  library(lmerTest)
  library(pbkrtest)
  library(emmeans)
})
emm_options(lmerTest.limit = 1e5, pbkrtest.limit = 1e5)
dir.create("data/reference/extra", showWarnings = FALSE)

tight <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE,
  optCtrl = list(rhobeg = 2e-3, rhoend = 1e-12, maxfun = 1e5))
table_of <- function(x) lapply(as.data.frame(x), arr)

cases <- list()
add <- function(id, data, formula, specs, by = NULL, at = NULL, weights = "equal", REML = TRUE,
  subset = NULL, subset_py = NULL, prior = NULL) {
  d <- read_data(data)
  if (!is.null(subset)) d <- droplevels(d[eval(parse(text = subset), d), , drop = FALSE])
  d$prior_ <- if (is.null(prior)) rep(1, nrow(d)) else eval(parse(text = prior), d)
  m <- if (is.null(prior)) lmer(as.formula(formula), d, REML = REML, control = tight) else
    lmer(as.formula(formula), d, REML = REML, control = tight, weights = prior_)
  one <- function(method) {
    e <- emmeans(m, specs = specs, by = by, at = at, weights = weights, lmer.df = method, data = d)
    pair <- pairs(e)
    list(means = table_of(summary(e)),
      pairs = table_of(summary(pair, infer = c(TRUE, TRUE))),
      p = sapply(c("holm", "bonferroni", "sidak", "fdr", "none"),
        function(a) arr(summary(pair, adjust = a)$p.value), simplify = FALSE),
      holm_lower = arr(as.data.frame(summary(pair, infer = TRUE, adjust = "holm"))[[if (method == "asymptotic") "asymp.LCL" else "lower.CL"]]),
      sidak_lower = arr(as.data.frame(summary(pair, infer = TRUE, adjust = "sidak"))[[if (method == "asymptotic") "asymp.LCL" else "lower.CL"]]),
      effects = table_of(summary(contrast(e, "eff", adjust = "none"))),
      control = table_of(summary(contrast(e, "trt.vs.ctrl", adjust = "none"))))
  }
  ## pbkrtest takes no account of prior weights
  methods <- c("asymptotic", "satterthwaite", if (REML && is.null(prior)) "kenward-roger")
  cases[[length(cases) + 1]] <<- list(id = id, data = data, formula = formula, reml = REML,
    specs = arr(specs), by = if (is.null(by)) NULL else arr(by),
    at = if (is.null(at)) NULL else lapply(at, arr), weights = weights, prior = prior,
    subset = subset_py, methods = sapply(methods, one, simplify = FALSE))
}

add("slope_by", "dietox", "Weight ~ Time * Cu + Evit + (Time | Pig)", "Cu", by = "Time",
  at = list(Time = c(1, 6, 12)))
add("at_covariate", "dietox", "Weight ~ Time * Cu + Evit + (Time | Pig)", c("Time", "Evit"),
  at = list(Time = c(2, 10)))
add("proportional", "dietox", "Weight ~ Time * Cu + Evit + (Time | Pig)", "Evit",
  weights = "proportional")
add("equal", "dietox", "Weight ~ Time * Cu + Evit + (Time | Pig)", "Evit")
add("unbalanced", "ergoStool", "effort ~ Type + (1 | Subject)", "Type",
  subset = "seq_along(effort) %% 5 != 0", subset_py = "index % 5 != 4")
add("offset", "Orthodont", "distance ~ Sex + offset(0.66 * age) + (1 | Subject)", "Sex")
add("two_values", "Orthodont", "distance ~ Sex * age + (1 | Subject)", "Sex",
  subset = "age %in% c(8, 14)", subset_py = "age in [8, 14]")
add("transform", "sleepstudy", "Reaction ~ log(Days + 1) + I(Days^2) + (1 | Subject)", "Days",
  at = list(Days = c(0, 3, 9)))
add("numeric_factor", "sleepstudy", "Reaction ~ factor(Days) + (1 | Subject)", "Days", REML = FALSE)
add("empty_cell", "cake", "angle ~ recipe * factor(temp) + (1 | recipe:replicate)", "recipe",
  subset = "!(recipe == 'C' & temp == 225)", subset_py = "not (recipe == 'C' and temp == 225)")
add("empty_cell_temp", "cake", "angle ~ recipe * factor(temp) + (1 | recipe:replicate)", "temp",
  by = "recipe", subset = "!(recipe == 'C' & temp == 225)",
  subset_py = "not (recipe == 'C' and temp == 225)")
add("prior_weights", "sleepstudy", "Reaction ~ Days + (1 | Subject)", "Days",
  at = list(Days = c(0, 9)), prior = "1/(1 + Days)")
write_json(list(R = R.version.string, emmeans = as.character(packageVersion("emmeans")),
  cases = cases), "data/reference/extra/means.json")

suppressMessages(library(merTools))
ranks <- list()
rank_of <- function(data, formula, group, term) {
  m <- lme4::lmer(as.formula(formula), read_data(data), control = tight)
  r <- expectedRank(m, groupFctr = group, term = term)
  ranks[[length(ranks) + 1]] <<- list(data = data, formula = formula, group = group,
    term = term, levels = arr(r$groupLevel), estimate = arr(r$estimate),
    variance = arr(r$std.error), rank = arr(r$ER), percentile = arr(r$pctER))
}
rank_of("sleepstudy", "Reaction ~ Days + (Days | Subject)", "Subject", "Days")
rank_of("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", "plate", "(Intercept)")
rank_of("Exam", "normexam ~ standLRT + (standLRT | school)", "school", "(Intercept)")
write_json(list(R = R.version.string, merTools = as.character(packageVersion("merTools")),
  ranks = ranks), "data/reference/extra/ranks.json")
