"""The parser of `fit`, `validate`, `test` and `predict`: LightningCLI's, with our options and links."""

import warnings
from argparse import HelpFormatter
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from segbench.callbacks.checkpoints import Checkpoints
from segbench.callbacks.init_from_checkpoint import InitFromCheckpoint
from segbench.callbacks.panels import Panels
from segbench.callbacks.predictions import PredictionFiles
from segbench.checkpoints.reading import FROM_DATA
from segbench.data.base import SegmentationDataModule
from segbench.parsing.names import import_components
from segbench.parsing.parser import ExplainedParser
from segbench.tasks.base import Task
from segbench.training.linked import refuse_linked
from segbench.training.option_help import option_help
from segbench.training.trainer import Trainer

# The links from the data module to the task; that of num_classes comes first, since it looks for the files.
LINKED = tuple(key for key in FROM_DATA if key != "num_classes")

_SHORT = """
In place of --config and --ckpt_path:
  --checkpoint CKPT     the model, the data and the weights of a checkpoint
"""
_SHORT_FIT = """
In place of --config and --ckpt_path:
  --resume RUN          resume a run: its folder's configuration, last checkpoint and W&B run; no setting that
                        affects weights or scores may be changed
  --init-from CKPT      start a run from the weights of another; the same as --start.checkpoint CKPT
"""


class HelpfulParser(ExplainedParser, LightningArgumentParser):
    """A parser whose help also lists the options of the classes that YAML may name."""

    @property
    def also(self) -> tuple[str, ...]:
        """Names the options that `segbench.training.arguments` takes off the command line."""
        if self.verb not in TrainerParser.subcommands():
            return ()  # the parser of a class
        return "overlay", *(("resume", "init-from") if self.verb == "fit" else ("checkpoint", "trust"))

    @property
    def verb(self) -> str:
        """The verb that is parsed; meaningless for the parser of a class."""
        return self.prog.rpartition(" ")[2]

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Adds the options of tasks, parts and datasets to those of the verb."""
        text: str = super().format_help(formatter)
        if self.verb not in TrainerParser.subcommands():
            return text
        return text + (_SHORT_FIT if self.verb == "fit" else _SHORT) + option_help()


class TrainerParser(LightningCLI):
    """LightningCLI that parses, and builds nothing.

    Args:
        args: The command line, the verb first; None builds the parsers alone.
    """

    def __init__(self, args: list[str] | None) -> None:
        # Lightning 2.6 uses spellings that jsonargparse 5 will drop.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.pytorch\.cli$")
        self._args = args
        import_components()  # a class may be given by its name alone, whatever else was imported
        super().__init__(
            Task,
            SegmentationDataModule,
            trainer_class=Trainer,
            save_config_callback=None,  # the run folder gets its config.yaml from us
            seed_everything_default=0,
            parser_kwargs={
                "prog": "segbench",
                **{verb: {"prog": f"segbench {verb}"} for verb in self.subcommands()},
            },
            parser_class=HelpfulParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds our own options, and the links from data to task."""
        parser.add_argument(
            "--experiment",
            type=str | None,
            help="Name of the folder under runs/; default: the names of the YAMLs.",
        )
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where run folders are made.")
        parser.add_argument(
            "--run_id",
            type=str | None,
            help="Name of the run's folder; default: date and time. A training run of that name that is there "
            "already resumes, so that the same command starts a run and resumes it.",
        )
        # Statistics of the whole batch are what makes several processes train as one does.
        parser.set_defaults({"trainer.sync_batchnorm": True})
        parser.add_argument(
            "--logger",
            type=Literal["csv", "tensorboard", "wandb"],
            default="csv",
            help="metrics.csv alone, or TensorBoard or W&B beside it. W&B stays offline where it has no key.",
        )
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(Panels, "panels")
        parser.add_lightning_class_args(PredictionFiles, "predictions")
        parser.add_lightning_class_args(InitFromCheckpoint, "start")
        # The first link looks for the files: missing data is said before weights are fetched for nothing.
        parser.link_arguments(
            "data", "model.init_args.num_classes", compute_fn=self._num_classes, apply_on="instantiate"
        )
        # Shallow links only: deep ones are lost from checkpoints.
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def _num_classes(self, data: SegmentationDataModule) -> int:
        data.prepare_data()
        data.setup(str(self.subcommand))
        return data.num_classes

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses without LightningCLI's complaint that arguments were given from Python."""
        if self._args is None:
            self.config = Namespace(subcommand=None)  # type: ignore[no-untyped-call]
            return
        self.config = parser.parse_args(args)  # type: ignore[arg-type]
        refuse_linked(self.config[self.config.subcommand])

    def resolved(self) -> dict[str, Any]:
        """Returns the configuration of the verb in plain values."""
        verb = str(self.config.subcommand)
        text = self._subcommand_parsers[verb].dump(self.config[verb], skip_unset=False)
        config: dict[str, Any] = yaml.safe_load(text)
        return config

    def _parse_ckpt_path(self) -> None:
        """Lets no checkpoint override the configuration, as Lightning would, silently."""

    def _set_seed(self) -> None:
        """Seeds nothing."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


def verb_parsers() -> dict[str, LightningArgumentParser]:
    """Returns the parser of each verb."""
    return TrainerParser(None)._subcommand_parsers
