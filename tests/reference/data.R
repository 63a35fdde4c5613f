## Read data/<name>.csv.gz with the column types and level orders of data/schema.json.

SCHEMA <- jsonlite::fromJSON("data/schema.json", simplifyVector = FALSE)

level_order <- function(column, values) {
  if (!is.null(column$levels)) return(unlist(column$levels))
  present <- unique(values[!is.na(values)])
  if (column$level_order == "numeric") return(present[order(as.numeric(present))])
  sort(present, method = "radix")
}

read_data <- function(name) {
  columns <- SCHEMA[[name]]$columns
  is_factor <- vapply(columns, function(c) c$type %in% c("factor", "ordered"), TRUE)
  d <- read.csv(gzfile(file.path("data", paste0(name, ".csv.gz"))), na.strings = "",
    colClasses = ifelse(is_factor, "character", "numeric"), check.names = FALSE)
  stopifnot(identical(names(d), vapply(columns, function(c) c$name, "")))
  for (c in columns[is_factor]) {
    d[[c$name]] <- factor(d[[c$name]], level_order(c, d[[c$name]]), ordered = c$type == "ordered")
  }
  d
}

## The data of a model: its data set, or the subset it names.
model_data <- function(M) {
  d <- read_data(M$data)
  if (is.null(M$subset_r)) return(d)
  d <- droplevels(d[eval(parse(text = M$subset_r), d), , drop = FALSE])
  rownames(d) <- NULL
  d
}
