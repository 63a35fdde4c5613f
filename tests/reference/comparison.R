## Exact tests of one variance, conditional AIC and cluster-robust covariances for reference fits:
## writes data/reference/extra/comparison.json.
##
##   Rscript tests/reference/comparison.R
##
## from the top of a checkout. Needs RLRsim, cAIC4 and clubSandwich.

Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/lmm.R")
suppressMessages({
  library(RLRsim)
  library(cAIC4)
  library(clubSandwich)
})

NSIM <- 1e5
SEED <- 20240607

load_model <- function(id) {
  M <- MODELS[[id]]
  dat <<- model_data(M)
  CTRL <<- careful()
  M
}

simulated <- function(test) {
  s <- test$sample
  list(statistic = unname(test$statistic), p = test$p.value, nsim = length(s),
    share_zero = mean(s == 0), quantiles = arr(quantile(s, c(0.75, 0.9, 0.95, 0.99))))
}

## One random term: the fit itself. Several: only the tested term, the full and the null model.
exact_rlrt <- function(id, only = NULL, null = NULL) {
  M <- load_model(id)
  full <- fit(M, REML = TRUE)
  if (is.null(only)) return(simulated(exactRLRT(full, seed = SEED, nsim = NSIM)))
  simulated(exactRLRT(fit(replace(M, "formula", only), REML = TRUE), full,
    fit(replace(M, "formula", null), REML = TRUE), seed = SEED, nsim = NSIM))
}

exact_lrt <- function(id, null) {
  M <- load_model(id)
  simulated(exactLRT(fit(M, REML = FALSE), lm(as.formula(null), dat), seed = SEED, nsim = NSIM))
}

## The derivative of V with respect to an entry of the covariance matrix of the random effects.
covariance_slopes <- function(m) {
  Z <- as.matrix(getME(m, "Z"))
  Lambdat <- getME(m, "Lambdat")
  lapply(seq_along(getME(m, "theta")), function(s) {
    Lambdat@x <- as.numeric(getME(m, "Lind") == s)
    D <- as.matrix(Lambdat)
    own <- diag(D)
    D <- D + t(D)
    diag(D) <- own
    Z %*% D %*% t(Z)
  })
}

## cAIC4's other building blocks put together by the chain rule: the trace of d yhat / d y'. In
## its own formula (df_cAIC4) the second term of the derivative C is halved, which its numerical
## branch (analytic = FALSE) does not do and finite differences of refits do not confirm; and its
## W takes the entries of Lambda in the order of its transpose, wrong for three coefficients.
conditional_aic <- function(id) {
  M <- load_model(id)
  one <- function(reml) {
    m <- fit(M, REML = reml)
    a <- quiet(cAIC(m))
    df <- a$df
    if (all(getME(m, "theta") > 0 | getME(m, "lower") < 0)) {
      model <- cAIC4:::getModelComponents.merMod(m, TRUE)
      np <- if (reml) model$n - ncol(model$X) else model$n
      A <- as.matrix(model$A)
      trace_matrix <- if (reml) A else as.matrix(model$V0inv)
      W <- covariance_slopes(m)
      e <- model$e
      s <- model$tye
      K <- length(W)
      H <- matrix(0, K, K)
      C <- matrix(0, K, model$n)
      for (j in seq_len(K)) {
        eWje <- sum(e * (W[[j]] %*% e))
        C[j, ] <- 2 * np / s * (A %*% (W[[j]] %*% e) - eWje / s * e)
        for (k in seq_len(K)) {
          eWke <- sum(e * (W[[k]] %*% e))
          H[j, k] <- -sum(t(W[[j]] %*% trace_matrix) * (W[[k]] %*% trace_matrix)) +
            2 * np / s * sum((W[[k]] %*% e) * (A %*% (W[[j]] %*% e))) - np * eWje * eWke / s^2
        }
      }
      slopes <- solve(H) %*% C
      df <- model$n - sum(diag(A)) + 1
      for (j in seq_len(K)) df <- df + sum(slopes[j, ] * (A %*% (W[[j]] %*% e)))
    }
    list(loglikelihood = a$loglikelihood, df = df, caic = 2 * (df - a$loglikelihood),
      df_cAIC4 = a$df)
  }
  list(reml = one(TRUE), ml = one(FALSE))
}

robust <- function(id, cluster) {
  M <- load_model(id)
  m <- fit(M)
  groups <- dat[[cluster]]
  one <- function(kind) {
    V <- vcovCR(m, cluster = groups, type = kind)
    t <- coef_test(m, vcov = V, test = c("Satterthwaite", "naive-t"))
    list(vcov = unname(as.matrix(V)), se = arr(t$SE), t = arr(t$tstat), df = arr(t$df_Satt),
      p = arr(t$p_Satt))
  }
  c(list(cluster = cluster, names = arr(names(fixef(m)))),
    sapply(c("CR0", "CR1", "CR2"), one, simplify = FALSE))
}

o <- list(
  exact_rlrt = list(
    dyestuff_ri_reml = exact_rlrt("dyestuff_ri_reml"),
    rail_ri_reml = exact_rlrt("rail_ri_reml"),
    gasoline_ri_reml = exact_rlrt("gasoline_ri_reml"),
    exam_ri_reml = exact_rlrt("exam_ri_reml"),
    pastes_nested_reml = exact_rlrt("pastes_nested_reml",
      "strength ~ 1 + (1 | batch)", "strength ~ 1 + (1 | batch:cask)"),
    machines_wm_reml = exact_rlrt("machines_wm_reml",
      "score ~ Machine + (1 | Worker)", "score ~ Machine + (1 | Worker:Machine)"),
    oats_num_reml = exact_rlrt("oats_num_reml",
      "Yield ~ nitro + Variety + (1 | Block)", "Yield ~ nitro + Variety + (1 | Block:Variety)")),
  exact_lrt = list(
    dyestuff_ri_ml = exact_lrt("dyestuff_ri_ml", "Yield ~ 1"),
    ergo_ri_ml = exact_lrt("ergo_ri_ml", "effort ~ 1"),
    exam_ri_ml = exact_lrt("exam_ri_ml", "normexam ~ standLRT + sex")),
  caic = sapply(c("dyestuff_ri_reml", "rail_ri_reml", "sleep_slope_reml", "sleep_zcp_reml",
    "penicillin_reml", "pastes_nested_reml", "ergo_ri_reml", "machines_wm_reml",
    "machines_max_reml", "oats_num_reml", "ortho_slope_reml", "gasoline_ri_reml",
    "dietox_slope_reml"), conditional_aic, simplify = FALSE),
  robust = list(
    sleep_slope_reml = robust("sleep_slope_reml", "Subject"),
    ergo_ri_reml = robust("ergo_ri_reml", "Subject"),
    machines_wm_reml = robust("machines_wm_reml", "Worker"),
    oats_num_reml = robust("oats_num_reml", "Block"),
    pastes_nested_reml = robust("pastes_nested_reml", "batch"),
    alfalfa_nested_reml = robust("alfalfa_nested_reml", "Block"),
    ortho_slope_reml = robust("ortho_slope_reml", "Subject"),
    dietox_slope_reml = robust("dietox_slope_reml", "Pig"),
    exam_slope_ml = robust("exam_slope_ml", "school")))
o$software <- paste0("R ", getRversion(), ", ", paste(vapply(
  c("lme4", "RLRsim", "cAIC4", "clubSandwich"),
  function(p) paste(p, packageVersion(p)), ""), collapse = ", "))
dir.create("data/reference/extra", showWarnings = FALSE)
write_json(o, "data/reference/extra/comparison.json")
