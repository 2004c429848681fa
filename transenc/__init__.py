"""Trans-Encoder: better bi- and cross-encoders from unlabelled sentence pairs.

The words, used everywhere:

- pair: two sentences. score: their similarity in [0, 1]. cosine, in [-1, 1], is what a bi-encoder computes, logit, in
  R, what a cross-encoder computes; each turns its own into a score in one method, `to_score`.
- teacher, student: roles, never types. stage: a pure step, (configuration, artifacts) -> artifact.
- iteration: the bi-encoder teaches the cross-encoder, then the cross-encoder teaches the bi-encoder. Iteration 0 is the
  starting bi-encoder.
- member: one backbone of an ensemble. Self-distillation has one member, mutual distillation several.
- pool: the unlabelled pairs. label: a teacher's score for a pair of the pool.
- recipe: a file in conf/experiment/, a small delta over the defaults.

The code, in reading order: `loop` (the method, on one screen), `stages` (what each verb of it does), `artifacts` (how a
stage's result is kept and found again), `encoders`, `training` (one student, one teacher's labels), `data`,
`run_writer` (what a run writes), `report` (its page).
"""
