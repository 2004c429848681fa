"""The stages: pure steps from (plain settings, artifacts) to a folder (`transenc.artifacts`).

    pairs       reading, cleaning, mining and tokenising pairs
    models      loading, mean-centring and scoring with an encoder
    labels      labels of the teachers
    teachers    scores of fixed teachers: other models, and files
    training    a student trained on them, and how far it goes (`interpolation`)
    evaluation  scored sets of pairs, and the metrics of encoders on them
    pool        the steps of a run that make its pool
    run         all steps of a run, as the loop calls them

What takes seconds to import is imported by the stage that needs it, so that a run which finds everything built starts
at once.
"""
