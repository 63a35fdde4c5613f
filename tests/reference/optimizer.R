## A slow and careful optimizer with the interface lme4 wants. Stages: BOBYQA (minqa and
## nloptr) and Subplex, random starts against local optima, restarts from the best point,
## small diagonal thetas tried on the boundary, and a projected Newton iteration with
## finite-difference derivatives. LAST$log describes the last call.

LAST <- new.env()

unit <- function(n, i, size) replace(numeric(n), i, size)

## Central differences of order 4.
fd_gradient <- function(f, x, free, h) {
  g <- numeric(length(x))
  for (i in free) {
    e <- unit(length(x), i, h[i])
    g[i] <- (f(x - 2 * e) - 8 * f(x - e) + 8 * f(x + e) - f(x + 2 * e)) / (12 * h[i])
  }
  g
}

fd_hessian <- function(f, x, free, h) {
  k <- length(free)
  H <- matrix(0, k, k)
  f0 <- f(x)
  step <- function(i) unit(length(x), free[i], h[free[i]])
  for (i in seq_len(k)) {
    a <- step(i)
    H[i, i] <- (-f(x - 2 * a) + 16 * f(x - a) - 30 * f0 + 16 * f(x + a) - f(x + 2 * a)) /
      (12 * h[free[i]]^2)
    for (j in seq_len(i - 1)) {
      b <- step(j)
      H[i, j] <- H[j, i] <- (f(x + a + b) - f(x + a - b) - f(x - a + b) + f(x - a - b)) /
        (4 * h[free[i]] * h[free[j]])
    }
  }
  H
}

minimize_bobyqa <- function(f, x, lower, upper, rhobeg, rhoend, maxfun = 1e5) {
  o <- minqa::bobyqa(pmin(pmax(x, lower), upper), f, lower, upper,
    control = list(rhobeg = rhobeg, rhoend = rhoend, maxfun = maxfun))
  list(par = o$par, val = o$fval)
}

minimize_nlopt <- function(f, x, lower, upper, algorithm, xtol, ftol) {
  tryCatch({
    o <- nloptr::nloptr(x, f, lb = lower, ub = upper, opts = list(algorithm = algorithm,
      xtol_abs = xtol, ftol_abs = ftol, ftol_rel = 1e-16, xtol_rel = 1e-14, maxeval = 2e4))
    list(par = o$solution, val = o$objective)
  }, error = function(e) NULL)
}

minimize_nlminb <- function(f, x, lower, upper, maxit) {
  gradient <- function(x) vapply(seq_along(x), function(i) {
    e <- unit(length(x), i, 1e-4)
    (f(x + e) - f(x - e)) / 2e-4
  }, 0)
  tryCatch({
    o <- nlminb(x, f, gradient = gradient, lower = lower, upper = upper,
      control = list(rel.tol = 1e-14, x.tol = 1e-10, iter.max = maxit, eval.max = 500))
    list(par = o$par, val = o$objective)
  }, error = function(e) NULL)
}

best_of <- function(candidates) {
  candidates[[which.min(vapply(candidates, function(c) c$val, 0))]]
}

random_start <- function(k, par, best, lower, diagonal) {
  n <- length(par)
  if (k %% 2 == 0) return(best * exp(rnorm(n, 0, 0.5)) + rnorm(n, 0, 0.05 * max(abs(best))))
  x <- par
  scale <- c(0.1, 0.5, 2, 1)[(k - 1) %% 4 + 1]
  x[diagonal] <- pmax(lower[diagonal], scale * exp(rnorm(length(diagonal), 0, 0.5)))
  other <- setdiff(seq_len(n), diagonal)
  x[other] <- par[other] + rnorm(length(other), 0, 0.3)
  x
}

## Put diagonal thetas that are nearly 0 on the boundary and minimize over the others.
snap_to_boundary <- function(f, x, lower, upper, diagonal, rhoend) {
  v <- f(x)
  for (i in diagonal) if (x[i] != lower[i] && x[i] - lower[i] < 2e-3) {
    trial <- replace(x, i, lower[i])
    value <- f(trial)
    if (value > v + 1e-8 * max(1, abs(v))) next
    free <- setdiff(seq_along(x), i)
    inner <- function(z) f(replace(trial, free, z))
    o <- if (length(free) > 1) {
      minimize_bobyqa(inner, trial[free], lower[free], upper[free], 0.005, rhoend, 2e4)
    } else if (length(free) == 1) {
      q <- optimize(inner, trial[free] + c(-0.02, 0.02), tol = 1e-10)
      list(par = q$minimum, val = q$objective)
    }
    if (!is.null(o) && o$val < value) {
      trial[free] <- o$par
      value <- o$val
    }
    if (value <= v + 1e-9 * max(1, abs(v))) {
      x <- trial
      v <- min(v, value)
    }
  }
  x
}

## Newton steps on the parameters off the bounds; a fresh Hessian when progress stalls.
newton_polish <- function(f, x, lower, upper, rounds, hs = 1e-3) {
  free_of <- function(x) which(x > lower + 1e-12 & x < upper - 1e-12)
  free <- free_of(x)
  h <- pmax(abs(x), 0.1) * hs
  v <- f(x)
  gmax <- NA
  steps <- 0
  H <- NULL
  for (round in seq_len(rounds)) {
    if (!length(free)) break
    H <- fd_hessian(f, x, free, 5 * h)
    ev <- eigen((H + t(H)) / 2, symmetric = TRUE)
    tol <- max(ev$values) * 1e-8
    inverse <- ifelse(abs(ev$values) > tol, 1 / pmax(abs(ev$values), tol), 0)
    Hi <- ev$vectors %*% (inverse * t(ev$vectors))
    g <- fd_gradient(f, x, free, h)[free]
    gmax <- g_start <- max(abs(g))
    moved <- FALSE
    for (it in 1:6) {
      step <- -as.vector(Hi %*% g)
      if (!all(is.finite(step))) break
      accepted <- FALSE
      for (scale in c(1, 0.5, 0.1)) {
        trial <- x
        trial[free] <- x[free] + scale * step
        trial <- pmin(pmax(trial, lower), upper)
        value <- f(trial)
        if (value > v + 1e-10 * max(1, abs(v))) next
        g_trial <- fd_gradient(f, trial, free, h)[free]
        g_trial_max <- max(0, abs(g_trial[free %in% free_of(trial)]))
        accepted <- g_trial_max < gmax || value < v - 1e-9 * max(1, abs(v))
        if (accepted) break
      }
      if (!accepted) break
      x <- trial
      v <- value
      g <- g_trial
      gmax <- g_trial_max
      steps <- steps + 1
      moved <- TRUE
      if (length(free_of(x)) != length(free) || gmax < 1e-8) break
    }
    changed <- !identical(free_of(x), free)
    free <- free_of(x)
    if (!changed && (gmax < 1e-8 || !moved || gmax > 0.3 * g_start)) break
  }
  if (length(free) && NROW(H) != length(free)) H <- fd_hessian(f, x, free, 5 * h)
  smallest <- if (length(free)) min(eigen((H + t(H)) / 2, TRUE, only.values = TRUE)$values) else NA
  list(par = x, free = free, max_abs_grad = gmax, steps = steps, hess_min_eig = smallest)
}

careful_optimizer <- function(fn, par, lower = rep(-Inf, length(par)),
                              upper = rep(Inf, length(par)), control = list()) {
  n <- length(par)
  lower <- rep_len(lower, n)
  upper <- rep_len(upper, n)
  evaluations <- 0L
  f <- function(x) {
    evaluations <<- evaluations + 1L
    v <- tryCatch(fn(x), error = function(e) NA_real_)
    if (is.finite(v)) v else 1e200
  }
  quick <- isTRUE(control$quick)  # big models: looser first stages, gradient finish
  bobyqa <- function(x, rhobeg, rhoend, maxfun = 1e5) {
    minimize_bobyqa(f, x, lower, upper, rhobeg, rhoend, maxfun)
  }
  diagonal <- which(is.finite(lower))
  stages <- list(bobyqa = bobyqa(par, 0.2, if (quick) 1e-6 else 1e-8))
  stages$nlopt_bobyqa <- minimize_nlopt(f, par, lower, upper, "NLOPT_LN_BOBYQA",
    if (quick) 1e-7 else 1e-10, if (quick) 1e-8 else 1e-11)
  if (!quick && n <= 12) {
    stages$nlopt_sbplx <- minimize_nlopt(f, par, lower, upper, "NLOPT_LN_SBPLX", 1e-10, 1e-12)
  }
  n_starts <- if (quick || n < 3) 0 else if (n < 6) 4 else 12
  starts <- NULL
  if (n_starts > 0) {
    set.seed(20240101)
    tries <- lapply(seq_len(n_starts), function(k) {
      x <- random_start(k, par, best_of(stages)$par, lower, diagonal)
      tryCatch(bobyqa(x, 0.2, 1e-5, 2e4), error = function(e) NULL)
    })
    tries <- Filter(Negate(is.null), tries)
    if (length(tries)) {
      starts <- sort(vapply(tries, function(c) c$val, 0))
      stages$multistart_best <- best_of(tries)
    }
  }
  best <- best_of(stages)
  for (rhobeg in if (n > 6) c(0.02, 0.1, 0.3) else 0.02) {
    best <- best_of(list(best, bobyqa(best$par, rhobeg, if (quick) 1e-7 else 1e-9)))
  }
  if (n > 6) {
    stages$nlminb_from_best <- minimize_nlminb(f, best$par, lower, upper, if (quick) 40 else 300)
    best <- best_of(c(list(best), stages["nlminb_from_best"]))
  }
  stages$restart <- best
  x <- snap_to_boundary(f, best$par, lower, upper, diagonal, if (quick) 1e-7 else 1e-9)
  newton <- newton_polish(f, x, lower, upper, if (quick) 2 else 6)
  x <- newton$par
  v <- f(x)
  ## On the boundary the one-sided slopes must not be negative.
  slopes <- vapply(setdiff(seq_len(n), newton$free),
    function(i) (f(x + unit(n, i, 1e-3)) - v) / 1e-3, 0)
  v <- f(x)  # leaves lme4's state at the optimum
  LAST$log <- list(criteria = c(vapply(stages, function(c) c$val, 0), final = v),
    max_abs_grad = newton$max_abs_grad, newton_steps = newton$steps,
    hess_min_eig = newton$hess_min_eig, boundary_slopes = slopes, nstart = n_starts,
    multistart_criteria = starts, nevals = evaluations)
  list(par = x, fval = v, feval = evaluations, conv = 0L, convergence = 0L, message = "polished")
}
