## JSON with 17 significant digits (jsonlite stops at 15), so that doubles survive the trip.
## NA becomes null; Inf, -Inf and NaN become strings; matrices become lists of rows.

json_string <- function(s) as.character(jsonlite::toJSON(as.character(s), auto_unbox = TRUE))

json_number <- function(v) {
  if (is.nan(v)) return("\"NaN\"")
  if (is.na(v)) return("null")
  if (is.infinite(v)) return(if (v > 0) "\"Inf\"" else "\"-Inf\"")
  if (v == round(v) && abs(v) < 1e15) return(sprintf("%.0f", v))
  s <- sprintf("%.15g", v)
  if (as.numeric(s) != v) sprintf("%.17g", v) else s
}

json_atom <- function(x) {
  if (is.character(x)) return(if (is.na(x)) "null" else json_string(x))
  if (is.logical(x)) return(if (is.na(x)) "null" else if (x) "true" else "false")
  json_number(as.numeric(x))
}

## A vector that must stay an array even when its length is 1.
arr <- function(x) {
  if (is.null(x)) return(NULL)
  x <- as.vector(unname(x))
  atoms <- vapply(seq_along(x), function(i) json_atom(x[[i]]), "")
  structure(paste0("[", paste(atoms, collapse = ","), "]"), class = "json_text")
}

json_list <- function(texts) paste0("[", paste(texts, collapse = ","), "]")

json_value <- function(x) {
  if (is.null(x)) return("null")
  if (inherits(x, "json_text")) return(unclass(x))
  if (is.factor(x)) x <- as.character(x)
  if (is.matrix(x)) {
    return(json_list(vapply(seq_len(nrow(x)), function(i) unclass(arr(x[i, ])), "")))
  }
  if (is.array(x) && length(dim(x)) == 3) {
    slice <- function(k) json_value(matrix(x[, , k], dim(x)[1], dim(x)[2]))
    return(json_list(vapply(seq_len(dim(x)[3]), slice, "")))
  }
  if (is.list(x)) {
    if (is.null(names(x))) return(json_list(vapply(x, json_value, "")))
    pairs <- mapply(function(k, v) paste0(json_string(k), ":", json_value(v)), names(x), x)
    return(paste0("{", paste(pairs, collapse = ","), "}"))
  }
  if (length(x) == 1L) return(json_atom(x))
  unclass(arr(x))
}

write_json <- function(object, file) {
  text <- json_value(object[!vapply(object, is.null, TRUE)])
  stopifnot(jsonlite::validate(text))
  connection <- file(file, "wb")
  writeBin(charToRaw(enc2utf8(paste0(text, "\n"))), connection)
  close(connection)
}

## The numbers of an array made by arr().
from_json <- function(x) jsonlite::fromJSON(unclass(x))
