## glmmTMB's fits of every family to simulated data (data/reference/glmm/data/families.csv.gz, made
## by tests/reference/glmm_families.py), written to data/reference/glmm/families.json.
suppressMessages({library(glmmTMB); library(jsonlite)})
d <- read.csv("data/reference/glmm/data/families.csv.gz"); d$g <- factor(d$g)
control <- glmmTMBControl(optCtrl=list(iter.max=3000, eval.max=6000, rel.tol=1e-13))
record <- function(...) {
  call <- as.call(c(quote(glmmTMB), eval(substitute(alist(...))), quote(d), list(control=quote(control))))
  names(call)[which(sapply(as.list(call), identical, quote(d)))] <- "data"
  m <- suppressWarnings(eval(call, globalenv()))
  f <- fixef(m)
  list(logLik=as.numeric(logLik(m)), beta=unname(f$cond), se=unname(sqrt(diag(vcov(m)$cond))),
    zi=unname(f$zi), disp=unname(f$disp), sd=unname(sqrt(diag(VarCorr(m)$cond$g))))
}
out <- list(
  nbinom1=record(c~x+(1|g), family=nbinom1), nbinom2=record(c~x+(1|g), family=nbinom2),
  nbinom2_dispersion=record(c~x+(1|g), family=nbinom2, dispformula=~x),
  poisson_zi=record(z~x+(1|g), family=poisson, ziformula=~x),
  nbinom2_zi=record(z~x+(1|g), family=nbinom2, ziformula=~1),
  nbinom1_zi=record(z~x+(1|g), family=nbinom1, ziformula=~1),
  poisson_hurdle=record(z~x+(1|g), family=truncated_poisson, ziformula=~x),
  nbinom2_hurdle=record(z~x+(1|g), family=truncated_nbinom2, ziformula=~1),
  gamma_inverse=record(ga~v+(1|g), family=Gamma("inverse")),
  gamma_slope=record(ga~x+(x|g), family=Gamma("log"), dispformula=~x),
  beta=record(b~x+(1|g), family=beta_family(), dispformula=~x),
  betabinomial=record(cbind(s,m-s)~x+(1|g), family=betabinomial),
  poisson_weights=record(c~x+(1|g), family=poisson, weights=w),
  gaussian_log=record(ga~x+(1|g), family=gaussian("log")))
out$versions <- list(R=R.version.string, glmmTMB=as.character(packageVersion("glmmTMB")))
write_json(out, "data/reference/glmm/families.json", digits=12, auto_unbox=TRUE, pretty=TRUE)
