## Standard errors of variance components, intervals, shares of variance, ICC and R2: writes
## data/reference/extra/variances.json.
##
##   Rscript tests/reference/variances.R [output file]
##
## from the top of a checkout. Needs numDeriv and performance. The information is the Hessian
## (numDeriv, Richardson extrapolation) of the deviance in variances and covariances, computed from
## lme4's deviance function with sigma not profiled out.

arguments <- commandArgs(TRUE)
OUT <- if (length(arguments)) arguments[1] else "data/reference/extra/variances.json"
Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/lmm.R")
suppressMessages({
  library(numDeriv)
  library(performance)
})

IDS <- c("dyestuff_ri_reml", "sleep_slope_reml", "sleep_slope_ml", "sleep_zcp_reml", "sleep_w_reml",
  "oats_fac_reml", "penicillin_ml", "pastes_nested_reml", "carrots_crossed_reml",
  "machines_max_reml", "exam_zcp_reml", "ortho_slope_reml", "dietox_slope_reml", "cake_num_reml")

sizes_of <- function(m) vapply(m@cnms, length, 1L)

## Entries of every Psi, lower triangle column by column, then sigma^2; and back to theta.
pack <- function(m) {
  blocks <- lapply(VarCorr(m), function(S) S[lower.tri(S, diag = TRUE)])
  c(unlist(blocks, use.names = FALSE), sigma(m)^2)
}
unpack <- function(m, v) {
  k <- sizes_of(m)
  parts <- split(v[-length(v)], rep(seq_along(k), k * (k + 1) / 2))
  mapply(function(p, size) {
    S <- matrix(0, size, size)
    S[lower.tri(S, diag = TRUE)] <- p
    S + t(S) - diag(diag(S), size)
  }, parts, k, SIMPLIFY = FALSE)
}

deviance_of <- function(m, update) {
  function(v) {
    s2 <- v[length(v)]
    theta <- unlist(lapply(unpack(m, v), function(S) {
      L <- t(chol(S / s2))
      L[lower.tri(L, diag = TRUE)]
    }))
    update(theta)
    e <- environment(update)
    rss <- e$resp$wrss() + e$pp$sqrL(1)
    n <- nobs(m)
    if (!isREML(m)) return(e$pp$ldL2() + n * log(2 * pi * s2) + rss / s2)
    e$pp$ldL2() + e$pp$ldRX2() + (n - length(fixef(m))) * log(2 * pi * s2) + rss / s2
  }
}

## Mean over the rows of z'Psi z, term by term, and the mean residual variance.
parts_of <- function(m, v) {
  S <- unpack(m, v)
  Z <- getME(m, "mmList")
  random <- mapply(function(z, s) mean(rowSums((z %*% s) * z)), Z, S)
  c(random, v[length(v)] * mean(1 / weights(m)))
}

record <- function(id) {
  M <- MODELS[[id]]
  dat <<- model_data(M)
  CTRL <<- careful()
  m <- fit(M)
  v <- pack(m)
  call <- m@call
  call$devFunOnly <- TRUE
  update <- quiet(eval(call, globalenv()))
  f <- deviance_of(m, update)
  stopifnot(abs(f(v) - criterion(m) - sum(log(weights(m)))) < 1e-6)
  V <- 2 * solve(hessian(f, v, method.args = list(d = 0.06, r = 5)))
  shares <- function(v) {
    p <- parts_of(m, v)
    r <- p[-length(p)]
    c(r, sum(r)) / sum(p)
  }
  r <- shares(v)
  J <- jacobian(function(v) qlogis(shares(v)), v)
  half <- qnorm(0.975) * sqrt(diag(J %*% V %*% t(J)))
  slope <- jacobian(shares, v)
  number <- function(x) tryCatch(as.numeric(unname(x)), error = function(e) NULL)
  o <- list(id = id, groups = arr(names(m@cnms)), vcov = arr(v), vcov_se = arr(sqrt(diag(V))),
    covariance = V, icc = arr(r), icc_se = arr(sqrt(diag(slope %*% V %*% t(slope)))),
    icc_lower = arr(plogis(qlogis(r) - half)), icc_upper = arr(plogis(qlogis(r) + half)))
  if (is.null(M$weights)) {
    i <- quiet(icc(m))
    r2 <- quiet(r2_nakagawa(m))
    o <- c(o, list(icc_adjusted = number(i$ICC_adjusted), icc_unadjusted = number(i$ICC_unadjusted),
      r2_conditional = number(r2$R2_conditional), r2_marginal = number(r2$R2_marginal)))
  }
  cat(id, "\n")
  o[!vapply(o, is.null, TRUE)]
}

SOFTWARE <- paste0("R ", getRversion(), ", ", paste(vapply(c("lme4", "numDeriv", "performance"),
  function(p) paste(p, packageVersion(p)), ""), collapse = ", "))
dir.create(dirname(OUT), recursive = TRUE, showWarnings = FALSE)
write_json(list(software = SOFTWARE, fits = lapply(IDS, record)), OUT)
