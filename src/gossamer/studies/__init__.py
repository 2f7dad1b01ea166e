"""Studies: published claims, reproduced. A study is a folder with a `study.toml`:

    title = "One merge at the end"
    about = "What the paper says and where."
    seeds = [0, 1, 2]
    rounds = 100                            # the base: any keys of an experiment

    [arms.single]                           # as in an experiment file: differences from the base
    schedule = "late"
    [arms.none]
    method = "local"

    [cross.rule.krum]                       # instead, or besides: each level of one factor with each of another, arms
    aggregator = "krum"                     # such as krum--ipm (see gossamer.studies.crossing)
    [cross.attack.ipm]
    attack = "ipm"

    [quick]                                 # --quick: which arms and seeds are kept, and overrides for each arm
    seeds = [0, 1]
    rounds = 20
    cross = { rule = ["krum"] }             # of crossed arms, the levels that are kept; the other factor keeps all

    [[claims]]
    name = "merging helps"
    about = "Section 4, figure 1"
    value = "single.merged - single.local"  # see gossamer.studies.claims; metrics: see gossamer.studies.outcomes
    at_least = 0.15                         # or at_most = 0.3, or between = [0.08, 0.12]
    every_seed = true                       # each seed must pass too

    [[plots]]
    kind = "curves"                         # or "bars" with metrics = ["merged", "local"], or "heatmap", "lines"
    metric = "merged"
    over = "bytes"                          # curves along what was sent so far; default: along rounds
    arms = ["single", "none"]               # all without it

What there is to run and to judge is in `contents` and `claims`; the runs that are left in `agenda`, and `crew` where
they are played side by side; what the finished ones say in `outcomes`, `verdicts` and `findings`, and as files in
`results`.
"""
