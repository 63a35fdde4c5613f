## The models of data/reference: id, data set, formula, estimation method, category, tags.
## `weights` is an R expression in the columns; a subset is given for R and for pandas;
## `quick` shortens the search of the slow ones.

MODELS <- list()
REML <- TRUE
ML <- FALSE
BOTH <- c(TRUE, FALSE)

add <- function(id, data, formula, methods, category, tags = "", weights = NULL,
                subset_r = NULL, subset_py = NULL, quick = FALSE) {
  for (reml in methods) {
    name <- paste0(id, if (reml) "_reml" else "_ml")
    MODELS[[name]] <<- list(id = name, data = data, formula = formula, reml = reml,
      category = category, tags = strsplit(tags, ",")[[1]], weights = weights,
      subset_r = subset_r, subset_py = subset_py, quick = quick)
  }
}


## single random intercept
add("dyestuff_ri", "Dyestuff", "Yield ~ 1 + (1 | Batch)", BOTH, "ri")
add("rail_ri", "Rail", "travel ~ 1 + (1 | Rail)", BOTH, "ri")
add("sleep_ri", "sleepstudy", "Reaction ~ Days + (1 | Subject)", REML, "ri")
add("ergo_ri", "ergoStool", "effort ~ Type + (1 | Subject)", BOTH, "ri")
add("exam_ri", "Exam", "normexam ~ standLRT + sex + schgend + (1 | school)", BOTH, "ri")
add("gasoline_ri", "Gasoline", "Yield ~ endpoint + vapor + (1 | Sample)", REML, "ri")
add("mathach_ri", "MathAchieve", "MathAch ~ SES + Minority + Sex + (1 | School)", REML, "ri")
add("zero_fe", "Rail", "travel ~ 0 + (1 | Rail)", ML, "ri", "no_fixed_effects")

## correlated slopes
add("sleep_slope", "sleepstudy", "Reaction ~ Days + (Days | Subject)", BOTH, "slope")
add("ortho_slope", "Orthodont", "distance ~ age * Sex + (age | Subject)",
  BOTH, "slope", "interaction")
add("oxboys_slope", "Oxboys", "height ~ age + (age | Subject)", REML, "slope")
add("oxboys_quad", "Oxboys", "height ~ age + I(age^2) + (age + I(age^2) | Subject)",
  ML, "slope", "transform")
add("dietox_slope", "dietox", "Weight ~ Time * Cu + Evit + (Time | Pig)",
  REML, "slope", "interaction")
add("bodyweight_slope", "BodyWeight", "weight ~ Time * Diet + (Time | Rat)",
  REML, "slope", "interaction")
add("exam_slope", "Exam", "normexam ~ standLRT + (standLRT | school)", BOTH, "slope")
add("spruce_slope", "Spruce", "logSize ~ days * plot + (days | Tree)",
  REML, "slope", "interaction,badly_scaled")

## uncorrelated slopes
add("sleep_zcp", "sleepstudy", "Reaction ~ Days + (Days || Subject)", BOTH, "zcp")
add("dietox_zcp", "dietox", "Weight ~ Time + (1 | Pig) + (0 + Time | Pig)", ML, "zcp")
add("exam_zcp", "Exam", "normexam ~ standLRT + sex + (standLRT || school)", REML, "zcp")
add("oxboys_zcp", "Oxboys", "height ~ age + I(age^2) + (age + I(age^2) || Subject)", BOTH, "zcp")

## nested
add("pastes_nested", "Pastes", "strength ~ 1 + (1 | batch/cask)", BOTH, "nested")
add("oats_num", "Oats", "Yield ~ nitro + Variety + (1 | Block/Variety)", REML, "nested")
add("oats_fac", "Oats", "Yield ~ nitro_f * Variety + (1 | Block/Variety)",
  BOTH, "nested", "interaction")
add("alfalfa_nested", "Alfalfa", "Yield ~ Date * Variety + (1 | Block/Variety)",
  REML, "nested", "interaction")
add("chem97_nested", "Chem97", "score ~ gcsecnt + gender + (1 | lea/school)",
  BOTH, "nested", "large")
add("egsingle_3lev", "egsingle",
  "math ~ year * female + lowinc * year + (year | schoolid/childid)",
  REML, "nested", "slope,interaction,large")
add("glucose2_nested", "Glucose2", "glucose ~ Time + I(Time^2) + I(Time^3) + (1 | Subject/Date)",
  ML, "nested")

## crossed
add("penicillin", "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", BOTH, "crossed")
add("insteval_3re", "InstEval", "y ~ 1 + service + (1 | s) + (1 | d) + (1 | dept)",
  BOTH, "crossed", "large", quick = TRUE)
add("insteval_int", "InstEval", "y ~ service * dept + (1 | s) + (1 | d)",
  BOTH, "crossed", "large,interaction", quick = TRUE)
add("insteval_sl", "InstEval",
  "y ~ service + studage + lectage + (1 | s) + (service | d) + (1 | dept)",
  REML, "crossed", "large,slope,ordered_contrasts", quick = TRUE)
add("machines_max", "Machines", "score ~ Machine + (Machine | Worker)", BOTH, "crossed", "slope")
add("machines_wm", "Machines", "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)",
  BOTH, "crossed")
add("machines_cell", "Machines", "score ~ 0 + Machine + (0 + Machine | Worker)",
  REML, "crossed", "no_intercept")
add("cake_ord", "cake", "angle ~ recipe * temperature + (1 | recipe:replicate)",
  BOTH, "crossed", "ordered_contrasts,interaction")
add("cake_num", "cake", "angle ~ recipe + temp + (1 | replicate) + (1 | recipe:replicate)",
  REML, "crossed")
add("carrots_crossed", "carrots",
  "Preference ~ sens1 + sens2 + Homesize + (1 + sens2 | Consumer) + (1 | Product)",
  REML, "crossed", "missing,slope")
add("verbagg_lmm", "VerbAgg", "respn ~ (Anger + Gender + btype + situ)^2 + (1 | id) + (1 | item)",
  BOTH, "crossed", "interaction,large")

## prior weights
add("cbpp_w", "cbpp", "prop ~ period + (1 | herd)",
  BOTH, "weights", weights = "size")
add("sleep_w", "sleepstudy", "Reaction ~ Days + (Days | Subject)",
  BOTH, "weights", weights = "1/(1 + Days)")
add("dietox_w", "dietox", "Weight ~ Time + (1 | Pig) + (0 + Time | Pig)",
  REML, "weights", weights = "1/Time")

## offset
add("sleep_off", "sleepstudy", "Reaction ~ Days + offset(10 * Days) + (Days | Subject)",
  REML, "offset")
add("chem97_off", "Chem97", "score ~ gender + offset(gcsescore) + (1 | lea/school)",
  ML, "offset", "large,nested")
add("ortho_off", "Orthodont", "distance ~ Sex + offset(0.66 * age) + (1 | Subject)",
  BOTH, "offset")

## rank-deficient X
add("cake_rank", "cake", "angle ~ temp + temperature + recipe + (1 | recipe:replicate)",
  REML, "rankdef", "ordered_contrasts")
add("cake_cell", "cake", "angle ~ recipe * factor(temp) + (1 | recipe:replicate)",
  BOTH, "rankdef", "interaction,missing_cell",
  subset_r = "!(recipe == 'C' & temp == 225)", subset_py = "not (recipe == 'C' and temp == 225)")
add("oats_rank", "Oats", "Yield ~ nitro + nitro_f * Variety + (1 | Block/Variety)",
  ML, "rankdef", "interaction")

## singular
add("dyestuff2_ri", "Dyestuff2", "Yield ~ 1 + (1 | Batch)", BOTH, "singular")
add("pastes_crossed", "Pastes", "strength ~ 1 + (1 | batch) + (1 | cask)", BOTH, "crossed")
add("sleep_quad", "sleepstudy", "Reaction ~ Days + I(Days^2) + (Days + I(Days^2) | Subject)",
  REML, "slope", "transform,default_optimizer_stops_early")
add("cake_sing", "cake", "angle ~ recipe + I((temp - 200)/25) + (I((temp - 200)/25) | replicate)",
  REML, "singular", "slope,transform")
add("ergo_sing", "ergoStool", "effort ~ Type + (1 | Subject) + (1 | Type)",
  ML, "singular", "crossed")
add("glucose2_sing", "Glucose2",
  "glucose ~ Time + I(Time^2) + (Time | Subject) + (1 | Subject:Date)",
  REML, "singular", "slope,nested")

## maximal (>= 10 thetas)
add("oxboys_cubic", "Oxboys",
  "height ~ age + I(age^2) + I(age^3) + (age + I(age^2) + I(age^3) | Subject)",
  BOTH, "maximal", "transform")
add("arab_max", "Arabidopsis",
  paste0("log(total_fruits + 1) ~ nutrient * amd + rack + status + (nutrient * amd | popu) ",
    "+ (nutrient * amd | gen)"),
  REML, "maximal", "singular,transform,interaction")
add("verbagg_max", "VerbAgg",
  paste0("respn ~ I((Anger - 20)/5) + Gender + btype + situ + mode + (btype + situ ",
    "+ mode | id) + (Gender + I((Anger - 20)/5) | item)"),
  ML, "maximal", "large,crossed", quick = TRUE)
add("insteval_max", "InstEval", "y ~ service + studage + (studage | d) + (1 | s)",
  REML, "maximal", "large,ordered_contrasts",
  subset_r = "dept %in% c('15','5','10','12')", subset_py = "dept in ['15','5','10','12']",
  quick = TRUE)
add("egsingle_max", "egsingle",
  "math ~ year + I(year^2) + female + lowinc + (year + I(year^2) | schoolid/childid)",
  ML, "maximal", "large,nested,transform", quick = TRUE)
add("carrots_max", "carrots",
  paste0("Preference ~ Sweetness + Bitter + Crisp + (Sweetness + Bitter + Crisp | Consumer) ",
    "+ (1 | Product)"),
  ML, "maximal", "missing")

## simulated test data of statsmodels: "drf" dependent, "irf" independent random effects
sm <- function(data, fixed, random, methods, suffix, tags) {
  bars <- paste(sprintf("(0 + %s | groups)", random), collapse = " + ")
  add(paste0(data, suffix), data, sprintf("endog ~ 0 + %s + %s", fixed, bars), methods,
    "statsmodels", tags)
}
FE2 <- "exog_fe_0 + exog_fe_1"
FE3 <- "exog_fe_0 + exog_fe_1 + exog_fe_2"
sm("sm_lme00", "exog_fe_0", "exog_re_0", REML, "_drf", "ri")
sm("sm_lme01", "exog_fe_0", "exog_re_0", REML, "_drf", "ri")
sm("sm_lme03", FE2, "exog_re_0", BOTH, "_drf", "ri")
sm("sm_lme07", "exog_fe_0", "exog_re_0 + exog_re_1", REML, "_drf", "slope")
sm("sm_lme11", FE3, "exog_re_0 + exog_re_1", REML, "_drf", "slope")
sm("sm_lme11", FE3, c("exog_re_0", "exog_re_1"), ML, "_irf", "zcp")
add("sm_dietox", "sm_dietox", "Weight ~ Time + (Time | Pig)", REML, "statsmodels", "slope")

## simulated pupils: labels re-used across groups
add("pupils_nested", "pupils", "score ~ ses + female + (1 | school/classroom)", BOTH, "nested",
  "large")
add("pupils_slope", "pupils", "score ~ ses + female + (ses | school) + (1 | school:classroom)",
  REML, "nested", "large,slope")
