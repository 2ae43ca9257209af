"""The help of `segbench fit`, `validate`, `test` and `predict` that fits a screen; needs no import of torch."""

_PURPOSE = {
    "fit": "Trains a model, or resumes a run.",
    "validate": "Scores a checkpoint on the validation split.",
    "test": "Scores a checkpoint on the test split.",
    "predict": "Labels the images of a dataset's predict split.",
}
_EXAMPLES = {
    "fit": (
        "segbench fit --config experiments/meanshift.yaml \\",
        "             --config experiments/data/synthetic.yaml",
        "segbench fit --resume runs/meanshift-synthetic/RUN",
    ),
    "validate": ("segbench validate --checkpoint runs/EXPERIMENT/RUN/checkpoints/best.ckpt",),
    "test": ("segbench test --checkpoint runs/EXPERIMENT/RUN/checkpoints/best.ckpt",),
    "predict": ("segbench predict --checkpoint runs/EXPERIMENT/RUN/checkpoints/best.ckpt",),
}
# Option and one line each; a test compares them with the parser.
_CONFIGURATION = (
    ("--config FILE", "YAML file; of several the last one wins"),
    ("--print_config", "print the resolved configuration and exit"),
    ("--seed_everything N", "seed of all random numbers (default: 0)"),
)
_FIT = (
    ("--resume RUN", "resume a run where it stopped"),
    ("--init-from CKPT", "start from the weights of another run"),
    ("--start.fresh LIST", "modules with new weights, as [decoder]"),
    ("--start.freeze", "train only those modules"),
)
_CHECKPOINT = (
    ("--checkpoint CKPT", "configuration and weights of a model"),
    ("--trust PACKAGE", "package a checkpoint may name classes of"),
)
_RUN = (
    ("--experiment NAME", "folder under runs/ (default: YAML names)"),
    ("--runs_dir DIR", "folder of all runs (default: runs)"),
    ("--run_id NAME", "name of the run folder (default: time)"),
    ("--logger NAME", "csv, tensorboard or wandb (default: csv)"),
    ("--panels.num_images N", "images in panels/ (default: 8)"),
)
_FIT_RUN = (("--checkpoints.every_n_steps N", "steps between two saves (default: 500)"),)
_PREDICT_RUN = (("--predictions.ids KIND", "training or file (default: training)"),)
_DATA = (
    ("--data.init_args.root DIR", "folder of the dataset"),
    ("--data.init_args.num_workers N", "loading processes on each device"),
)
_FIT_DATA = (("--data.init_args.batch_size N", "training images on each device"),)
_TRAINER = (
    ("--trainer.devices N", "number or indices (default: auto)"),
    ("--trainer.precision KIND", "32-true, bf16-mixed or 16-mixed"),
)
_FIT_TRAINER = (
    ("--trainer.max_steps N", "optimiser steps"),
    ("--trainer.val_check_interval N", "steps between two validations"),
    ("--trainer.accumulate_grad_batches N", "batches in a step (default: 1)"),
    ("--trainer.fast_dev_run", "try one batch of each split, keep nothing"),
)
_MODEL = (
    ("--model.init_args.window H,W", "size of the sliding window, as [512, 512]"),
    ("--model.init_args.stride H,W", "distance of two windows, as [480, 480]"),
)


def short_help(verb: str) -> str:
    """Returns the help of a verb.

    Args:
        verb: fit, validate, test or predict.

    Returns:
        At most 60 lines of at most 80 characters.
    """
    fit = verb == "fit"
    sections = {
        "configuration": _CONFIGURATION,
        "where to start": _FIT if fit else _CHECKPOINT,
        "run folder": _RUN + (_FIT_RUN if fit else ()) + (_PREDICT_RUN if verb == "predict" else ()),
        "data": _DATA + (_FIT_DATA if fit else ()),
        "trainer": _TRAINER + (_FIT_TRAINER if fit else ()),
        "model": _MODEL,
    }
    lines = [f"usage: segbench {verb} [options]", "", _PURPOSE[verb], ""]
    for title, options in sections.items():
        lines += [f"{title}:", *(f"  {option:<36} {text}" for option, text in options)]
    lines += ["", "examples:", *(f"  {example}" for example in _EXAMPLES[verb])]
    lines += [
        "",
        f"segbench {verb} --help all     every option of the verb and of all classes",
        "segbench options               the classes that YAML may name",
        "segbench options MeanShift     the options of one of them",
    ]
    return "\n".join(lines) + "\n"


def options_shown(verb: str) -> list[str]:
    """Lists the options that the help names, without dashes and values.

    Args:
        verb: fit, validate, test or predict.
    """
    lines = short_help(verb).splitlines()
    return [line.split()[0].removeprefix("--") for line in lines if line.startswith("  --")]
