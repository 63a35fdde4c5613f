## End points of profile likelihood intervals by root finding, parameter by parameter.
##
## lme4's profile() interpolates and can lose the way near a boundary. Here every value of
## the profiled parameter gets its own minimization over all others. Standard deviations and
## correlations are profiled on lme4's "sd, cor, sigma" scale; a REML fit is profiled by ML,
## as lme4 does.

PROFILE_EXACT_NOTE <- paste("ML profile likelihood, end points by root finding (REML fits are",
  "profiled by ML, as lme4 does); lower=0 for an sd (or -1/1 for a correlation) means the profile",
  "does not reach the cutoff before the boundary; sd lower ends below 1% of the estimate are",
  "ill-conditioned")

## BOBYQA twice: a wide and a narrow start.
bobyqa_twice <- function(f, x, lower, upper, rhobeg) {
  o <- minimize_bobyqa(f, x, lower, upper, rhobeg[1], 1e-7)
  minimize_bobyqa(f, o$par, lower, upper, rhobeg[2], 1e-9)
}

finite_or <- function(e, value) {
  v <- tryCatch(e, error = function(er) NA)
  if (is.finite(v)) v else value
}

## Where zeta crosses the cutoff, going from the estimate outwards; `bound` if it does not.
solve_end <- function(zeta_minus_z, estimate, step, side, bound) {
  inside <- estimate
  for (i in 0:39) {
    v <- estimate + side * step * 1.6^i
    v <- if (side < 0) max(v, bound) else min(v, bound)
    if (zeta_minus_z(v) > 0) {
      return(uniroot(zeta_minus_z, sort(c(inside, v)), tol = 1e-9 * max(abs(v), step))$root)
    }
    if (v == bound) return(bound)
    inside <- v
  }
  NA
}

## Minimum deviance over theta when sigma is held at v.
sigma_profile <- function(m) {
  pp <- m@pp$copy()
  resp <- m@resp$copy()
  log_weights <- sum(log(resp$weights))
  lower <- getME(m, "lower")
  theta <- getME(m, "theta")
  bounded <- is.finite(lower)
  function(v) {
    f <- function(t) {
      .Call(lme4:::lmer_Deviance, pp$ptr(), resp$ptr(), as.double(t))
      pp$ldL2() - log_weights + (resp$wrss() + pp$sqrL(1)) / v^2 + nobs(m) * log(2 * pi * v^2)
    }
    ratio <- sigma(m) / v
    if (length(theta) == 1) {
      widest <- max(4 * theta, 3) * max(ratio, 1)
      return(min(optimize(f, c(0, widest), tol = 1e-11)$objective, f(0)))
    }
    starts <- list(theta * ratio, ifelse(bounded, pmax(theta * 0.3, lower), -0.3 * theta),
      ifelse(bounded, 0.05, 0))
    infinite <- rep(Inf, length(lower))
    min(vapply(starts, function(s) {
      bobyqa_twice(f, pmax(s, lower), lower, infinite, c(0.05, 0.02))$val
    }, 0))
  }
}

## Minimum deviance over the other standard deviations and correlations when number k is at v.
## A second search from several correlations guards against local minima.
component_profile <- function(deviance, estimate, is_cor) {
  n <- length(estimate)
  low <- ifelse(is_cor, -1, 0)
  high <- ifelse(is_cor, 1, Inf)
  scale <- ifelse(is_cor, 1, pmax(estimate, 1e-3 * estimate[n]))
  from <- function(k, v, start) {
    i <- setdiff(seq_len(n), k)
    f <- function(u) {
      p <- replace(numeric(n), k, v)
      p[i] <- u * scale[i]
      finite_or(deviance(p), 1e10)
    }
    margin <- ifelse(is_cor[i], 1e-6, 0)
    lower <- low[i] / scale[i]
    upper <- high[i] / scale[i]
    u <- pmin(pmax(start[i] / scale[i], lower + margin), upper - margin)
    if (length(i) > 1) return(bobyqa_twice(f, u, lower, upper, c(0.05, 0.01))$val)
    optimize(f, u + c(-min(0.9, u - lower), 2), tol = 1e-10)$objective
  }
  function(k, v) {
    best <- from(k, v, estimate)
    others <- setdiff(seq_len(n), k)
    cors <- others[is_cor[others]]
    if (!any(is_cor)) return(best)
    for (rho in c(-0.95, 0, 0.95)) for (shrink in c(0.3, 1)) {
      start <- replace(estimate, cors, rho)
      sds <- setdiff(others[!is_cor[others]], n)
      start[sds] <- start[sds] * shrink
      best <- min(best, from(k, v, start))
    }
    best
  }
}

## Minimum deviance over theta when fixed effect j is held at v: an offset without column j.
fixed_profile <- function(M, m) {
  X <- getME(m, "X")
  weights <- if (!is.null(M$weights)) eval(parse(text = M$weights)[[1]], dat)
  parsed <- lFormula(as.formula(M$formula), data = dat, REML = FALSE, weights = weights,
    control = careful())
  offset <- getME(m, "offset")
  theta <- getME(m, "theta")
  lower <- getME(m, "lower")
  infinite <- rep(Inf, length(lower))
  function(j) {
    deviance <- do.call(mkLmerDevfun,
      list(fr = parsed$fr, X = X[, -j, drop = FALSE], reTrms = parsed$reTrms, REML = FALSE))
    response <- environment(deviance)$resp
    function(v) {
      response$setOffset(as.numeric(offset + v * X[, j]))
      f <- function(t) finite_or(deviance(t), 1e10)
      if (length(theta) == 1) {
        return(min(optimize(f, c(0, max(4 * theta, 2)), tol = 1e-11)$objective, f(0)))
      }
      bobyqa_twice(f, pmax(theta, lower), lower, infinite, c(0.1, 0.01))$val
    }
  }
}

exact_profile <- function(M, level = 0.95) {
  m <- fit(M, REML = FALSE)
  deviance <- lme4:::devfun2(m, useSc = TRUE, signames = FALSE)
  base <- attr(deviance, "basedev")
  n <- length(getME(m, "theta")) + 1
  estimate <- unname(attr(deviance, "optimum")[1:n])
  names <- names(attr(deviance, "optimum"))[1:n]
  is_cor <- grepl("^cor_", names)
  z <- qnorm((1 + level) / 2)
  zeta_minus_z <- function(minimum) function(v) sqrt(max(minimum(v) - base, 0)) - z
  at_sigma <- sigma_profile(m)
  at_component <- component_profile(deviance, estimate, is_cor)
  out <- list()
  for (k in seq_len(n)) {
    f <- zeta_minus_z(if (k == n) at_sigma else function(v) at_component(k, v))
    step <- if (is_cor[k]) 0.2 else max(0.2 * estimate[k], 0.05 * estimate[n])
    lowest <- if (k == n) 1e-6 * estimate[k] else 0
    bounds <- if (is_cor[k]) c(-1, 1) * (1 - 1e-9) else c(lowest, Inf)
    ends <- c(attempt(solve_end(f, estimate[k], step, -1, bounds[1])),
      attempt(solve_end(f, estimate[k], step, 1, bounds[2])))
    if (is_cor[k]) ends <- ifelse(abs(abs(ends) - 1) < 1e-7, sign(ends), ends)
    out[[names[k]]] <- list(estimate = estimate[k], lower = ends[1], upper = ends[2])
  }
  at_fixed <- fixed_profile(M, m)
  beta <- fixef(m)
  for (j in seq_along(beta)) {
    f <- zeta_minus_z(at_fixed(j))
    step <- 1.5 * sqrt(vcov(m)[j, j])
    out[[names(beta)[j]]] <- list(estimate = beta[[j]],
      lower = attempt(solve_end(f, beta[[j]], step, -1, -Inf)),
      upper = attempt(solve_end(f, beta[[j]], step, 1, Inf)))
  }
  list(level = level, note = PROFILE_EXACT_NOTE, base_deviance = base, intervals = out)
}
