## Write data/<name>.csv.gz from the R packages the sets were published with, and from a
## source tree of statsmodels when its folder is given:
##
##   Rscript tests/reference/export_data.R [output folder] [statsmodels folder]
##
## Names: R's "." becomes "_", and "yield", a Python keyword, becomes "Yield". Grouping
## factors that nlme orders by their response become plain factors. Column types and level
## orders are written down in data/schema.json, and every exported set is checked against it.
## The fits are run on these files as read back, not on the R objects.

source("tests/reference/data.R")
arguments <- commandArgs(TRUE)
OUT <- if (length(arguments)) arguments[1] else "data"

from_package <- function(package, name) {
  box <- new.env()
  data(list = name, package = package, envir = box)
  x <- as.data.frame(as.list(as.data.frame(box[[name]])), optional = TRUE)
  names(x) <- sub("^yield$", "Yield", gsub(".", "_", names(x), fixed = TRUE))
  x
}

## 17 digits where 15 do not bring the same double back.
as_text <- function(v) {
  if (!is.numeric(v)) return(trimws(as.character(v)))
  s <- sprintf("%.15g", v)
  inexact <- !is.na(v) & suppressWarnings(as.numeric(s)) != v
  s[inexact] <- sprintf("%.17g", v[inexact])
  ifelse(is.na(v), NA, s)
}

check <- function(name, x) {
  for (column in SCHEMA[[name]]$columns) {
    v <- x[[column$name]]
    if (!column$type %in% c("factor", "ordered")) {
      whole <- all(is.na(v) | v == round(v))
      stopifnot(is.numeric(v), whole == (column$type == "integer"))
      next
    }
    present <- unique(trimws(as.character(v[!is.na(v)])))
    stopifnot(setequal(present, level_order(column, present)))
    ## R's own order must be ours where the order enters a fit as contrasts.
    kept <- if (is.factor(v)) intersect(trimws(levels(v)), present)
    contrasts_matter <- is.factor(v) && !is.null(column$levels) && !column$name %in% REORDERED
    stopifnot(!contrasts_matter || identical(kept, level_order(column, present)))
  }
}

## Grouping factors whose R order (by response) is given up.
REORDERED <- c("Block", "Rail", "Subject", "Worker", "Sample", "Batch")

export <- function(name, x) {
  columns <- vapply(SCHEMA[[name]]$columns, function(c) c$name, "")
  x <- x[columns]
  check(name, x)
  is_factor <- vapply(SCHEMA[[name]]$columns, function(c) c$type %in% c("factor", "ordered"), TRUE)
  text <- as.data.frame(lapply(x, as_text), optional = TRUE)
  connection <- gzfile(file.path(OUT, paste0(name, ".csv.gz")), "w", compression = 9)
  write.csv(text, connection, row.names = FALSE, na = "",
    quote = if (any(is_factor)) which(is_factor) else FALSE)
  close(connection)
  cat(name, nrow(x), "rows\n")
}

PACKAGES <- list(
  lme4 = c("sleepstudy", "Dyestuff", "Dyestuff2", "Penicillin", "Pastes", "cake", "InstEval",
    "cbpp", "VerbAgg", "Arabidopsis", "grouseticks"),
  nlme = c("Orthodont", "Machines", "Rail", "Oxboys", "Oats", "ergoStool", "Alfalfa",
    "BodyWeight", "Glucose2", "Gasoline", "MathAchieve", "Spruce"),
  mlmRev = c("Chem97", "Exam", "egsingle"),
  lmerTest = "carrots",
  ordinal = "wine",
  geepack = "dietox")

## Columns made here.
DERIVED <- list(
  cbpp = function(x) transform(x, obs = factor(seq_along(size)), prop = incidence / size),
  VerbAgg = function(x) transform(x, respn = as.integer(resp), r2n = as.integer(r2) - 1L),
  Oats = function(x) transform(x, nitro_f = factor(nitro)))

for (package in names(PACKAGES)) for (name in PACKAGES[[package]]) {
  x <- from_package(package, name)
  if (!is.null(DERIVED[[name]])) x <- DERIVED[[name]](x)
  export(name, x)
}

if (length(arguments) > 1) {
  folder <- file.path(arguments[2], "statsmodels", "regression", "tests", "results")
  for (name in grep("^sm_", names(SCHEMA), value = TRUE)) {
    x <- read.csv(file.path(folder, sub("^sm_(.*)$", "\\1.csv", name)), check.names = FALSE)
    export(name, x)
  }
}
