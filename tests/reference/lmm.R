## Fit one model of the list with lme4 and turn the fit into a record. The fits look up
## `dat` and `CTRL` in the global environment, as lmer's own calls do.

source("tests/reference/json.R")
source("tests/reference/data.R")
source("tests/reference/optimizer.R")
source("tests/reference/models.R")
suppressMessages({
  library(lme4)
  library(Matrix)
})

quiet <- function(expression) suppressMessages(suppressWarnings(expression))

## lmer without checks: singular, saturated and badly scaled models are wanted here.
unchecked <- function(...) {
  lmerControl(..., check.nobs.vs.nlev = "ignore", check.nobs.vs.nRE = "ignore",
    check.nlev.gtr.1 = "ignore", check.nobs.vs.rankZ = "ignore", check.scaleX = "ignore",
    check.rankX = "silent.drop.cols")
}

careful <- function(quick = FALSE) {
  unchecked(optimizer = "careful_optimizer", optCtrl = list(quick = quick), calc.derivs = FALSE,
    restart_edge = FALSE, boundary.tol = 0, check.conv.grad = "ignore",
    check.conv.singular = "ignore", check.conv.hess = "ignore")
}

fit <- function(M, REML = M$reml, lmer = quote(lme4::lmer), start = NULL, control = quote(CTRL)) {
  cl <- as.call(list(lmer, as.formula(M$formula, env = globalenv()), data = quote(dat),
    REML = REML, control = control))
  if (!is.null(M$weights)) cl$weights <- parse(text = M$weights)[[1]]
  if (!is.null(start)) cl$start <- start
  quiet(eval(cl, globalenv()))
}

call_text <- function(M) {
  option <- function(name, value) if (is.null(value)) "" else paste0(", ", name, " = ", value)
  sprintf("lmer(%s, data = %s, REML = %s%s%s)", M$formula, M$data, M$reml,
    option("weights", M$weights), option("subset", M$subset_r))
}

criterion <- function(m) unname(getME(m, "devcomp")$cmp[if (isREML(m)) "REML" else "dev"])

## sigma^2 Lambda (Lambda'Z'WZ Lambda + I)^-1 Lambda', its diagonal block for level l of a term.
conditional_covariances <- function(m, first, k, n_levels) {
  Lambda <- t(getME(m, "Lambdat"))
  L <- getME(m, "L")
  out <- array(0, c(k, k, n_levels))
  for (l in seq_len(n_levels)) {
    rows <- first + (l - 1) * k + seq_len(k)
    E <- sparseMatrix(rows, seq_len(k), x = 1, dims = c(nrow(Lambda), k))
    LE <- as(crossprod(Lambda, E), "CsparseMatrix")
    block <- crossprod(as.matrix(LE), as.matrix(solve(L, LE, system = "A")))
    out[, , l] <- as.matrix(sigma(m)^2 * block)
  }
  out
}

term_record <- function(m, t, shown) {
  group <- names(m@flist)[attr(m@flist, "assign")[t]]
  levels <- levels(m@flist[[group]])
  names <- m@cnms[[t]]
  k <- length(names)
  b <- matrix(as.vector(getME(m, "b"))[(m@Gp[t] + 1):m@Gp[t + 1]], nrow = k)
  S <- matrix(as.vector(VarCorr(m)[[t]]), k)
  sd <- sqrt(diag(S))
  first <- seq_len(min(shown, length(levels)))
  n_blocks <- min(length(levels), if (max(m@Gp) <= 400) 50 else 5)
  list(group = group, names = arr(names), nlevels = length(levels), cov = S, sd = arr(sd),
    corr = S / outer(sd, sd), levels_first = arr(levels[first]),
    ranef_first = t(b[, first, drop = FALSE]), ranef_sum = arr(rowSums(b)),
    ranef_sumsq = arr(rowSums(b^2)),
    condvar_first = conditional_covariances(m, m@Gp[t], k, n_blocks))
}

fit_record <- function(m, M, shown = 20) {
  X <- getME(m, "X")
  V <- unname(as.matrix(vcov(m)))
  fitted <- fitted(m)
  residuals <- residuals(m, type = "response")
  offset <- getME(m, "offset")
  components <- getME(m, "devcomp")$cmp
  xlevels <- .getXlevels(terms(m), model.frame(m, fixed.only = TRUE))
  head20 <- function(x) arr(head(x, shown))
  nonempty <- function(x) if (length(x)) x
  list(n = nobs(m), n_data = nrow(dat), p = length(fixef(m)), q = max(m@Gp),
    theta = arr(getME(m, "theta")), theta_names = arr(names(getME(m, "theta"))),
    theta_lower = arr(getME(m, "lower")), fixef_names = arr(as.character(names(fixef(m)))),
    fixef = arr(as.numeric(fixef(m))), fixef_se = arr(sqrt(diag(V))), vcov = V,
    X_dropped = arr(as.character(names(attr(X, "col.dropped")))),
    xlevels = nonempty(lapply(xlevels, arr)), contrasts = nonempty(attr(X, "contrasts")),
    sigma = sigma(m), terms = lapply(seq_along(m@cnms), function(t) term_record(m, t, shown)),
    npar = attr(logLik(m), "df"), logLik = as.numeric(logLik(m)), criterion = criterion(m),
    AIC = AIC(m), BIC = BIC(m), devcomp = as.list(components), singular = isSingular(m, tol = 1e-4),
    weights_first = if (!is.null(M$weights)) head20(weights(m)),
    offset_first = if (any(offset != 0)) head20(offset),
    fitted_first = head20(fitted), fitted_sum = sum(fitted), fitted_sumsq = sum(fitted^2),
    resid_first = head20(residuals), resid_sumsq = sum(residuals^2))
}

write_fit <- function(M) {
  dat <<- model_data(M)
  CTRL <<- careful(M$quick)
  m <- fit(M)
  log <- LAST$log
  plain <- fit(M, control = quote(unchecked()))
  if (criterion(m) > criterion(plain) + 1e-7) {
    m <- fit(M, start = getME(plain, "theta"))
    log <- LAST$log
  }
  head <- list(id = M$id, kind = "lmm", category = M$category,
    tags = arr(as.character(M$tags)), dataset = M$data, formula = M$formula,
    call = call_text(M), REML = M$reml, weights = M$weights, subset_r = M$subset_r,
    subset_py = M$subset_py)
  optimizer <- list(
    note = "criteria by stage; the reported fit is 'final' (lowest, Newton-polished)",
    criteria = as.list(log$criteria), default_nloptwrap_criterion = criterion(plain),
    default_theta = arr(getME(plain, "theta")),
    final_minus_default = criterion(m) - criterion(plain),
    max_abs_grad = log$max_abs_grad, newton_steps = log$newton_steps,
    hess_min_eig = log$hess_min_eig, boundary_slopes = arr(as.numeric(log$boundary_slopes)),
    nstart = log$nstart, multistart_criteria = arr(as.numeric(log$multistart_criteria)),
    nevals = log$nevals)
  software <- sprintf("R %s, lme4 %s", getRversion(), packageVersion("lme4"))
  write_json(c(head, fit_record(m, M), list(optimizer = optimizer, software = software)),
    file.path(OUT, "fits", paste0(M$id, ".json")))
  cat(sprintf("%-22s criterion %.8f, %.1e below plain lmer, largest gradient element %.1e\n", M$id,
    criterion(m), criterion(plain) - criterion(m), log$max_abs_grad))
}
