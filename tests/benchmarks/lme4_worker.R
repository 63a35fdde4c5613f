# Fit one case with lme4: Rscript lme4_worker.R FORMULA DATAFILE REPEATS FACTOR,FACTOR,...
#
# Prints the same lines of JSON as worker.py. Reading the file and making factors, which in Python
# is part of the fit, comes before the clock starts.

arguments <- commandArgs(trailingOnly = TRUE)
suppressPackageStartupMessages(library(lme4))

memory <- function(field) {
  status <- readLines("/proc/self/status")
  line <- grep(paste0("^", field), status, value = TRUE)
  as.numeric(gsub("[^0-9]", "", line)) * 1024 / 1e6
}

forget_peak <- function() {
  if (file.access("/proc/self/clear_refs", 2) == 0) cat("5", file = "/proc/self/clear_refs")
}

read <- function(file, factors) {
  if (requireNamespace("data.table", quietly = TRUE)) {
    data <- data.table::fread(file, data.table = FALSE, showProgress = FALSE)
  } else {
    data <- read.csv(file, colClasses = setNames(rep("character", length(factors)), factors))
  }
  data[factors] <- lapply(data[factors], factor)
  data
}

# Runs after the first call, by its seconds; the same rule as in worker.py.
remaining <- function(first, repeats) {
  if (first > 60) 0 else if (first > 20) min(repeats, 3) else repeats
}

number <- function(x) if (is.null(x)) "null" else sprintf("%.12g", x)

say <- function(record, seconds) {
  fields <- sprintf('"%s": %s', names(record), unlist(record))
  timed <- paste(sprintf("%.6f", seconds), collapse = ", ")
  cat(sprintf('{%s, "seconds": [%s]}\n', paste(fields, collapse = ", "), timed))
  flush(stdout())
}

once <- function(formula, data) {
  gc()
  start <- Sys.time()
  fit <- suppressMessages(suppressWarnings(
    lmer(formula, data, REML = TRUE, control = lmerControl(calc.derivs = FALSE))
  ))
  list(
    elapsed = as.numeric(difftime(Sys.time(), start, units = "secs")), criterion = number(REMLcrit(fit)),
    evaluations = number(fit@optinfo$feval), peak_mb = number(memory("VmHWM"))
  )
}

blas <- if (grepl("openblas", La_library(), ignore.case = TRUE)) "OpenBLAS" else "another BLAS"
record <- list(
  version = sprintf('"%s (R %s, %s)"', packageVersion("lme4"), getRversion(), blas),
  imported_mb = number(memory("VmRSS"))
)
formula <- as.formula(arguments[1])
data <- read(arguments[2], strsplit(arguments[4], ",")[[1]])
invisible(gc())
forget_peak()
record$before_mb <- number(memory("VmRSS"))
seconds <- numeric(0)
say(record, seconds)

kept <- c("criterion", "evaluations", "peak_mb")
run <- once(formula, data)
record[kept] <- run[kept]
record$first_seconds <- number(run$elapsed)
say(record, seconds)
for (i in seq_len(remaining(run$elapsed, as.numeric(arguments[3])))) {
  run <- once(formula, data)
  record[kept] <- run[kept]
  seconds <- c(seconds, run$elapsed)
  say(record, seconds)
}
