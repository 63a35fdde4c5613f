## Fit the models of models.R and write data/reference/fits/<id>.json.
##
##   Rscript tests/reference/fit_lmm.R [regular expression of ids] [output folder]
##
## from the top of a checkout. Small models take a second or two, the largest many minutes.

arguments <- commandArgs(TRUE)
OUT <- if (length(arguments) > 1) arguments[2] else "data/reference"
Sys.setenv(OPENBLAS_NUM_THREADS = "1")
source("tests/reference/lmm.R")

dir.create(file.path(OUT, "fits"), recursive = TRUE, showWarnings = FALSE)
ids <- grep(if (length(arguments)) arguments[1] else "", names(MODELS), value = TRUE)
for (id in ids) write_fit(MODELS[[id]])
