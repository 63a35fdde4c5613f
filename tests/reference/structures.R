## Reference values for structured covariances, known covariances between levels and held
## parameters: Rscript tests/reference/structures.R data/reference/extra/structures.json
##
## lme4 evaluates the deviance at any relative covariance factor (lmer's modular functions); a
## structure is a map from its parameters to that factor, a known covariance K = L L' between levels
## is Z L. Each optimum is found by nlminb and polished by optim, to full precision. glmmTMB, nlme and
## metafor fit the same models with code of their own; their values are recorded beside.

suppressPackageStartupMessages({library(lme4); library(glmmTMB); library(nlme); library(metafor)})
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
source(file.path(here, "json.R"))
out <- commandArgs(trailingOnly = TRUE)[1]

polish <- function(f, start, lower = -Inf) {
  best <- nlminb(start, f, lower = lower,
                 control = list(rel.tol = 1e-15, x.tol = 1e-12, eval.max = 4000, iter.max = 2000))
  for (i in 1:3) {
    o <- optim(best$par, f, method = if (length(start) == 1) "BFGS" else "Nelder-Mead",
               control = list(reltol = 1e-16, maxit = 20000))
    if (o$value <= best$objective) best <- list(par = o$par, objective = o$value)
    n <- nlminb(best$par, f, lower = lower, control = list(rel.tol = 1e-15, x.tol = 1e-12))
    if (n$objective <= best$objective) best <- list(par = n$par, objective = n$objective)
  }
  best
}

## -------------------------------------------------------------------- patterned covariances

lower_of <- function(Psi) {
  L <- t(chol(Psi))
  L[lower.tri(L, diag = TRUE)]
}
ar1_matrix <- function(k, r) r^abs(outer(1:k, 1:k, "-"))
cs_matrix <- function(k, r) matrix(r, k, k) + diag(1 - r, k)
bounded <- function(z, low) low + (1 - low) / (1 + exp(-z))
STRUCTURES <- list(
  "diag" = list(make = function(p, k) diag(exp(2 * p), k), start = function(k) rep(0, k)),
  "diag_hom" = list(make = function(p, k) diag(exp(2 * p), k), start = function(k) 0),
  "cs" = list(make = function(p, k) {
    sd <- exp(p[1:k])
    outer(sd, sd) * cs_matrix(k, bounded(p[k + 1], -1 / (k - 1)))
  }, start = function(k) rep(0, k + 1)),
  "cs_hom" = list(make = function(p, k) exp(2 * p[1]) * cs_matrix(k, bounded(p[2], -1 / (k - 1))),
                  start = function(k) c(0, 0)),
  "ar1" = list(make = function(p, k) {
    sd <- exp(p[1:k])
    outer(sd, sd) * ar1_matrix(k, bounded(p[k + 1], -1))
  }, start = function(k) c(rep(0, k), 0.5)),
  "ar1_hom" = list(make = function(p, k) exp(2 * p[1]) * ar1_matrix(k, bounded(p[2], -1)),
                   start = function(k) c(0, 0.5)))

structured <- function(formula, data, k, name, REML) {
  devfun <- do.call(mkLmerDevfun, c(lFormula(formula, data, REML = REML,
    control = lmerControl(check.nobs.vs.nRE = "ignore")), list(verbose = 0)))
  s <- STRUCTURES[[name]]
  f <- function(p) {
    v <- tryCatch(devfun(lower_of(s$make(p, k))), error = function(e) 1e10)
    if (is.finite(v)) v else 1e10
  }
  o <- polish(f, s$start(k))
  f(o$par)
  e <- environment(devfun)
  df <- if (REML) nrow(data) - length(fixef0 <- e$pp$beta(1)) else nrow(data)
  sigma2 <- (e$resp$wrss() + e$pp$sqrL(1)) / df
  list(structure = name, REML = REML, criterion = o$objective, sigma = sqrt(sigma2),
       Psi = sigma2 * s$make(o$par, k), fixef = arr(e$pp$beta(1)),
       vcov = sigma2 * as.matrix(e$pp$unsc()))
}

data(Machines, package = "nlme")
machines <- as.data.frame(Machines)
machines$Worker <- factor(as.character(machines$Worker))
data(sleepstudy, package = "lme4")
sleepstudy$day <- factor(sleepstudy$Days)
cases <- list()
for (name in names(STRUCTURES)) for (REML in c(TRUE, FALSE)) {
  cases[[length(cases) + 1]] <- c(list(dataset = "Machines"),
    structured(score ~ Machine + (0 + Machine | Worker), machines, 3, name, REML))
}
for (REML in c(TRUE, FALSE)) { # one row per day and subject: only ar1 is told from the residual
  cases[[length(cases) + 1]] <- c(list(dataset = "sleepstudy"),
    structured(Reaction ~ Days + (0 + day | Subject), sleepstudy, 10, "ar1_hom", REML))
}

tmb <- function(formula, data, REML) {
  m <- glmmTMB(formula, data, REML = REML, control = glmmTMBControl(
    optCtrl = list(iter.max = 5000, eval.max = 5000)))
  list(criterion = -2 * as.numeric(logLik(m)), sigma = sigma(m),
       Psi = unname(as.matrix(VarCorr(m)$cond[[1]])[, ]))
}
glmmtmb <- list()
for (REML in c(TRUE, FALSE)) {
  add <- function(dataset, structure, formula, data) glmmtmb[[length(glmmtmb) + 1]] <<-
    c(list(dataset = dataset, structure = structure, REML = REML), tmb(formula, data, REML))
  add("Machines", "cs", score ~ Machine + cs(0 + Machine | Worker), machines)
  add("Machines", "diag", score ~ Machine + diag(0 + Machine | Worker), machines)
  add("Machines", "ar1_hom", score ~ Machine + ar1(0 + Machine | Worker), machines)
}
nlme_cs <- lapply(c(TRUE, FALSE), function(REML) {
  m <- lme(score ~ Machine, machines, random = list(Worker = pdCompSymm(~ Machine - 1)),
           method = if (REML) "REML" else "ML",
           control = lmeControl(msTol = 1e-12, tolerance = 1e-12, msMaxIter = 500))
  list(REML = REML, criterion = -2 * as.numeric(logLik(m)), sigma = m$sigma,
       Psi = unname(as.matrix(getVarCov(m))[, ]))
})

## ---------------------------------------------------------------------- known covariances

## Relationship matrix by the tabular method (Emik & Terrill 1949), parents before offspring.
tabular <- function(sire, dam) {
  n <- length(sire)
  A <- diag(n)
  for (i in 1:n) {
    s <- sire[i]; d <- dam[i]
    if (i > 1) for (j in 1:(i - 1)) {
      A[i, j] <- A[j, i] <- 0.5 * ((if (s > 0) A[j, s] else 0) + (if (d > 0) A[j, d] else 0))
    }
    A[i, i] <- 1 + (if (s > 0 && d > 0) 0.5 * A[s, d] else 0)
  }
  A
}

## REML or ML of y ~ X with terms Z_t (n x q_t k_t, level by level) and K_t, relative factors free.
known_fit <- function(data, formula, effects, K, REML) {
  lf <- lFormula(formula, data, REML = REML, control = lmerControl(
    check.nobs.vs.nlev = "ignore", check.nobs.vs.nRE = "ignore", check.nobs.vs.rankZ = "ignore"))
  M <- model.matrix(effects, data)
  k <- ncol(M)
  level <- match(as.character(data$animal), rownames(K))
  q <- nrow(K)
  Z <- matrix(0, nrow(data), q * k)
  for (c in 1:k) Z[cbind(seq_len(nrow(data)), (level - 1) * k + c)] <- M[, c]
  L <- kronecker(t(chol(K)), diag(k))
  template <- lf$reTrms$Lambdat
  lambda <- matrix(0, k, k)
  index <- matrix(0, k, k)
  index[lower.tri(index, diag = TRUE)] <- seq_len(k * (k + 1) / 2)
  lf$reTrms$Zt <- as(as(Matrix(t(Z %*% L), sparse = TRUE), "generalMatrix"), "CsparseMatrix")
  upper <- as(as(Matrix(kronecker(diag(q), t(index)), sparse = TRUE), "generalMatrix"),
              "CsparseMatrix")
  lf$reTrms$Lind <- as.integer(upper@x)
  upper@x <- as.numeric(upper@x)
  lf$reTrms$Lambdat <- upper
  lf$reTrms$theta <- as.numeric(diag(k)[lower.tri(diag(k), diag = TRUE)])
  lf$reTrms$lower <- ifelse(diag(k)[lower.tri(diag(k), diag = TRUE)] == 1, 0, -Inf)
  devfun <- do.call(mkLmerDevfun, c(lf, list(verbose = 0)))
  o <- polish(function(p) devfun(p), lf$reTrms$theta, lf$reTrms$lower)
  devfun(o$par)
  e <- environment(devfun)
  p <- length(e$pp$beta(1))
  sigma2 <- (e$resp$wrss() + e$pp$sqrL(1)) / (nrow(data) - if (REML) p else 0)
  lambda[lower.tri(lambda, diag = TRUE)] <- o$par
  list(REML = REML, criterion = o$objective, sigma = sqrt(sigma2), theta = arr(o$par),
       Psi = sigma2 * lambda %*% t(lambda), fixef = arr(e$pp$beta(1)),
       vcov = sigma2 * as.matrix(e$pp$unsc()),
       b = matrix(as.numeric(L %*% as.numeric(crossprod(e$pp$Lambdat, e$pp$u(1)))), q, k,
                  byrow = TRUE))
}

set.seed(20261)
founders <- 20
sire <- dam <- rep(0, founders)
for (i in (founders + 1):120) {
  from <- max(1, i - 45)
  two <- sample(from:(i - 1), 2)
  sire <- c(sire, two[1])
  dam <- c(dam, if (runif(1) < 0.1) 0 else two[2])
}
A <- tabular(sire, dam)
rownames(A) <- sprintf("a%03d", 1:120)
records <- sample(31:120, 260, replace = TRUE)
x <- round(rnorm(260), 3)
effect <- t(chol(A)) %*% matrix(rnorm(240), 120) %*% chol(matrix(c(1.5, 0.3, 0.3, 0.5), 2))
animals <- data.frame(animal = rownames(A)[records], x = x,
  y = round(2 + x + effect[records, 1] + x * effect[records, 2] + rnorm(260), 4))
pedigree <- list(labels = arr(rownames(A)), sire = arr(sire), dam = arr(dam),
  inbreeding = arr(diag(A) - 1), A_last = arr(A[120, ]), animal = arr(animals$animal),
  x = arr(animals$x), y = arr(animals$y),
  intercept = lapply(c(TRUE, FALSE), function(REML)
    known_fit(animals, y ~ x + (1 | animal), ~ 1, A, REML)),
  slope = lapply(c(TRUE, FALSE), function(REML)
    known_fit(animals, y ~ x + (x | animal), ~ x, A, REML)))

## ------------------------------------------------------------------------- known variances

bcg <- escalc(measure = "RR", ai = tpos, bi = tneg, ci = cpos, di = cneg, data = dat.bcg)
bcg$yi <- as.numeric(bcg$yi)
meta <- function(mods, method) {
  control <- list(threshold = 1e-14, maxiter = 10000)
  m <- if (mods) rma(yi, vi, mods = ~ ablat, data = bcg, method = method, control = control)
       else rma(yi, vi, data = bcg, method = method, control = control)
  list(mods = mods, REML = method == "REML", tau2 = m$tau2, tau2_se = m$se.tau2,
       fixef = arr(m$beta), se = arr(m$se), criterion = -2 * as.numeric(logLik(m)),
       logdet_XtX = as.numeric(determinant(crossprod(m$X))$modulus),
       blup = arr(if (mods) NA else blup(m)$pred), blup_se = arr(if (mods) NA else blup(m)$se))
}
phylo <- A[31:60, 31:60]
set.seed(20262)
v <- round(runif(30, 0.05, 0.4), 3)
y <- round(0.4 + as.numeric(t(chol(phylo)) %*% rnorm(30)) * 0.8 + rnorm(30) * sqrt(v), 4)
both <- data.frame(y = y, v = v, species = rownames(phylo))
fit_phylo <- function(method) {
  m <- rma.mv(y, v, random = ~ 1 | species, R = list(species = phylo), data = both, method = method,
              Rscale = FALSE, control = list(optimizer = "optim", optmethod = "BFGS", reltol = 1e-16,
                                             maxit = 2000))
  list(REML = method == "REML", sigma2 = m$sigma2, fixef = arr(m$beta), se = arr(m$se),
       criterion = -2 * as.numeric(logLik(m)),
       logdet_XtX = as.numeric(determinant(crossprod(m$X))$modulus))
}
lme_fixed <- lme(yi ~ 1, bcg, random = ~ 1 | trial, weights = varFixed(~ vi), method = "REML",
                 control = lmeControl(sigma = 1, msTol = 1e-14, tolerance = 1e-14))

write_json(list(
  versions = list(R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4")),
    glmmTMB = as.character(packageVersion("glmmTMB")), nlme = as.character(packageVersion("nlme")),
    metafor = as.character(packageVersion("metafor"))),
  structures = cases, glmmTMB = glmmtmb, nlme_cs = nlme_cs, pedigree = pedigree,
  meta = list(yi = arr(bcg$yi), vi = arr(as.numeric(bcg$vi)), ablat = arr(bcg$ablat),
    fits = list(meta(FALSE, "REML"), meta(FALSE, "ML"), meta(TRUE, "REML"), meta(TRUE, "ML")),
    nlme = list(tau = as.numeric(VarCorr(lme_fixed)[1, 2]), fixef = as.numeric(fixef(lme_fixed)),
                criterion = -2 * as.numeric(logLik(lme_fixed)))),
  phylo = list(y = arr(y), v = arr(v), K = unname(phylo), species = arr(both$species),
    fits = lapply(c("REML", "ML"), fit_phylo))), out)
