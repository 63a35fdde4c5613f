## data/reference/extra/simulation.json: bootstrap intervals of package boot, refits, bootMer and
## simulated power of lme4.
##
##   Rscript tests/reference/simulation.R
##
## from the top of a checkout. Needs lme4 and boot. About three minutes.

Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/json.R")
source("tests/reference/data.R")
suppressMessages({
  library(lme4)
  library(boot)
})
tight <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, check.conv.singular = "ignore",
  optCtrl = list(rhobeg = 2e-3, rhoend = 1e-12, maxfun = 1e5))

## Intervals from given replicates: boot's own code on a skewed statistic.
set.seed(1)
x <- rexp(25)
b <- boot(x, function(d, i) log(var(d[i])), R = 499)
L <- empinf(b, type = "jack")
## our jackknife values: the statistic without one observation
without <- sapply(seq_along(x), function(i) log(var(x[-i])))
ci <- lapply(c(0.95, 0.9, 0.8), function(conf) {
  o <- boot.ci(b, conf = conf, type = c("norm", "basic", "perc", "bca"), L = L)
  list(conf = conf, normal = arr(o$normal[2:3]), basic = arr(o$basic[4:5]),
    percentile = arr(o$percent[4:5]), bca = arr(o$bca[4:5]))
})
intervals <- list(t0 = b$t0, t = arr(b$t[, 1]), jackknife = arr(without), ci = ci)

## The same design, other responses.
refits <- list()
add <- function(id, data, formula, REML, prior = NULL) {
  d <- read_data(data)
  d$prior_ <- if (is.null(prior)) rep(1, nrow(d)) else eval(parse(text = prior), d)
  m <- lmer(as.formula(formula), d, REML = REML, control = tight, weights = prior_)
  y <- getME(m, "y")
  n <- length(y)
  Y <- list("log" = log(y), "reversed" = rev(y), "cube" = y^3,
    "wave" = y + 3 * sd(y) * sin(seq_len(n)), "noise" = cos(7 * seq_len(n)^2))
  ## not refit(): under REML its criterion is another one than that of lmer on the same response
  one <- function(v) {
    d$v_ <- v
    r <- lmer(update(as.formula(formula), v_ ~ .), d, REML = REML, control = tight, weights = prior_)
    list(fixef = arr(fixef(r)), se = arr(sqrt(diag(as.matrix(vcov(r))))), theta = arr(getME(r, "theta")),
      sigma = sigma(r), deviance = -2 * as.numeric(logLik(r)))
  }
  refits[[length(refits) + 1]] <<- list(id = id, data = data, formula = formula, reml = REML,
    prior = prior, responses = lapply(Y, one))
}
add("sleep_reml", "sleepstudy", "Reaction ~ Days + (Days | Subject)", TRUE)
add("sleep_ml", "sleepstudy", "Reaction ~ Days + (Days | Subject)", FALSE)
add("sleep_weights", "sleepstudy", "Reaction ~ Days + (Days | Subject)", TRUE, "1 / (1 + Days)")
add("penicillin", "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", TRUE)
add("pastes", "Pastes", "strength ~ 1 + (1 | batch / cask)", FALSE)
add("machines", "Machines", "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", TRUE)

## Parametric bootstrap: moments of replicates, to be met within Monte-Carlo error.
boots <- list()
bootstrap <- function(id, data, formula, R) {
  m <- lmer(as.formula(formula), read_data(data), control = tight)
  numbers <- function(fit) {
    v <- as.data.frame(VarCorr(fit))
    c(fixef(fit), v$vcov[is.na(v$var2)])
  }
  seconds <- system.time(o <- bootMer(m, numbers, nsim = R, seed = 2))[["elapsed"]]
  t <- o$t[complete.cases(o$t), ]
  boots[[length(boots) + 1]] <<- list(id = id, data = data, formula = formula, R = nrow(t),
    seconds = seconds, mean = arr(colMeans(t)), sd = arr(apply(t, 2, sd)),
    lower = arr(apply(t, 2, quantile, 0.05)), median = arr(apply(t, 2, median)),
    upper = arr(apply(t, 2, quantile, 0.95)))
}
bootstrap("sleepstudy", "sleepstudy", "Reaction ~ Days + (Days | Subject)", 1000)
bootstrap("Penicillin", "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", 1000)

## Power: rejections of Days = 5 at 5 % by the Wald z test, 9 subjects and all 18.
d <- read_data("sleepstudy")
m <- lmer(Reaction ~ Days + (Days | Subject), d, control = tight)
power <- lapply(c(9, 18), function(G) {
  part <- droplevels(d[d$Subject %in% sort(unique(as.character(d$Subject)))[1:G], ])
  small <- lmer(Reaction ~ Days + (Days | Subject), part, control = tight)
  beta <- fixef(m)
  beta["Days"] <- 5
  y <- simulate(small, 500, seed = 3, newparams = list(beta = beta, theta = getME(m, "theta"), sigma = sigma(m)))
  hits <- sapply(y, function(v) {
    r <- refit(small, v)
    abs(fixef(r)[["Days"]] / sqrt(vcov(r)["Days", "Days"])) > qnorm(0.975)
  })
  list(n_groups = G, hits = sum(hits), n = length(hits))
})

software <- list(R = R.version.string, lme4 = as.character(packageVersion("lme4")),
  boot = as.character(packageVersion("boot")))
write_json(list(software = software, intervals = intervals, refits = refits, bootMer = boots,
  power = power), "data/reference/extra/simulation.json")
