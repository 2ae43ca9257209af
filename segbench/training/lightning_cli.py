"""`segbench fit | validate | test | predict`: LightningCLI with a run folder of its own for every run."""

import logging
import os
import re
import sys
import warnings
from argparse import ArgumentParser as ArgumentParserLite
from argparse import HelpFormatter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_only

from segbench.callbacks.adaptive_class_weights import AdaptiveClassWeights  # noqa: F401 (YAML may name it)
from segbench.callbacks.checkpoints import Checkpoints, SelfDescribing
from segbench.callbacks.feature_cache.callback import FeatureCache
from segbench.callbacks.init_from_checkpoint import InitFromCheckpoint
from segbench.callbacks.label_coverage import LabelCoverage
from segbench.callbacks.ledger import LedgerFile
from segbench.callbacks.non_finite_loss import TerminateOnNonFiniteLoss
from segbench.callbacks.panels import Panels
from segbench.callbacks.predictions import PredictionFiles
from segbench.callbacks.preemption import Preemption
from segbench.callbacks.progress import ModelSummary, ProgressBar
from segbench.callbacks.run_folder import RunFolder
from segbench.callbacks.run_metadata import RunMetadata, wandb_run
from segbench.callbacks.split_lists import SplitLists
from segbench.callbacks.step_seed import StepSeed
from segbench.callbacks.sync_batch_norm import ConvertSyncBatchNorm
from segbench.checkpoints.reading import (
    FROM_DATA,
    check_fits,
    has_training_state,
    model_config,
    read_checkpoint,
    run_config,
    saved_config,
)
from segbench.checkpoints.trust import check_classes, read_names
from segbench.data.base import SegmentationDataModule
from segbench.data.loading.workers import workers_ended
from segbench.encoders.base import skip_pretrained_weights
from segbench.parsing.names import import_components
from segbench.parsing.parser import ExplainedParser
from segbench.runs.folder import RunLocks, experiment_name, run_folder, run_of, write_config
from segbench.runs.metrics_csv import MetricsCSV, MetricsRows
from segbench.tasks.base import Task
from segbench.tasks.classes import match_classes
from segbench.training.linked import refuse_linked
from segbench.training.option_help import option_help
from segbench.training.resume import check_own, check_same, differences, find_run, remember
from segbench.training.trainer import Trainer
from segbench.training.trainer_options import check_trainer
from segbench.utils.device import check_processes
from segbench.utils.files import scratch
from segbench.utils.printable import escape_controls, without_passwords

LINKS = tuple(key for key in FROM_DATA if key != "num_classes")  # whose link looks for the files first

_SHORT = """
In place of --config and --ckpt_path:
  --checkpoint CKPT     the model, the data and the weights of a checkpoint
"""
_SHORT_FIT = """
In place of --config and --ckpt_path:
  --resume RUN          resume a run: its folder's configuration, last checkpoint and W&B run; nothing that
                        bears on the weights may be changed
  --init-from CKPT      begin a run with the weights of another; the same as --start.checkpoint CKPT
"""


class HelpfulParser(ExplainedParser, LightningArgumentParser):
    """A parser whose help also lists the options of the classes that YAML names."""

    @property
    def also(self) -> tuple[str, ...]:
        """Names the options that `_expand` takes off the command line."""
        if self.verb not in SegbenchCLI.subcommands():
            return ()  # of a class that YAML names
        return "overlay", *(("resume", "init-from") if self.verb == "fit" else ("checkpoint", "trust"))

    @property
    def verb(self) -> str:
        """The verb that is parsed; of the parser of a class nothing that means anything."""
        return self.prog.rpartition(" ")[2]

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Adds the options of tasks, parts and datasets to those of the verb."""
        text: str = super().format_help(formatter)
        if self.verb not in SegbenchCLI.subcommands():
            return text
        return text + (_SHORT_FIT if self.verb == "fit" else _SHORT) + option_help()


class SegbenchCLI(LightningCLI):
    """LightningCLI that writes into a folder of the run's own, where no checkpoint overrides in silence."""

    def __init__(self, args: list[str], command: list[str], claims: RunLocks) -> None:
        """Parses, builds and runs.

        Args:
            args: As on the command line, `--checkpoint` and the like expanded.
            command: As the user wrote it.
            claims: Gets the run folder.
        """
        self._args = args
        self._claims = claims
        self._strict = _asks(command, "--resume")  # the run is resumed as it was, or not at all
        self._command = command
        import_components()  # a class is named by its name alone, whatever else was imported
        super().__init__(
            Task,
            SegmentationDataModule,
            trainer_class=Trainer,
            save_config_callback=None,  # the run folder gets its config.yaml here
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
        for name in LINKS:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def _num_classes(self, data: SegmentationDataModule) -> int:
        data.prepare_data()
        data.setup(str(self.subcommand))
        return data.num_classes

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses without LightningCLI's complaint that arguments were given from Python."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]
        refuse_linked(self.config[self.config.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Reads the checkpoint, and reports where this command departs from how it was trained.

        Lightning lets the checkpoint's settings win over YAML and command line without a word; here what the
        user wrote wins.
        """
        self._settle_seeds()  # before they are compared with the checkpoint's
        self._departs = False  # from how the checkpoint was trained
        self._checkpoint: dict[str, Any] | None = None
        self._checkpoint_path: str | None = None
        config = self.config[self.config.subcommand]
        self.experiment = config.experiment = config.experiment or experiment_name(self._args)
        runs = self._claims.enter_context(scratch()) if config.trainer.fast_dev_run else Path(config.runs_dir)
        self.run_folder = run_folder(runs, self.experiment, config.run_id)
        if config.run_id is not None:
            self._claims.add(self.run_folder)  # before anything of it is read: another process may still write
            self._resume_by_name(config)
        path = config.get("ckpt_path")
        if not path:
            if self.config.subcommand != "fit":
                _tell("no checkpoint is given: the model is scored as it is built")
            return
        self._checkpoint = read_checkpoint(path)
        self._checkpoint_path = str(path)
        self._filled_here = not has_training_state(self._checkpoint)  # Lightning cannot read an exported file
        if self._filled_here and self.config.subcommand == "fit":
            raise ValueError(
                f"{path} holds weights, but no optimiser and no step, so no training can resume from it; "
                "to begin one with these weights give it by --start.checkpoint"
            )
        if self._strict:
            check_same(yaml.safe_load(self._repeatable()), self._checkpoint, str(path))
        for key, here, there in differences(config.model.as_dict(), model_config(self._checkpoint)):
            if key.removeprefix("init_args.") not in {"num_classes", *LINKS}:
                _tell(f"model.{key}: {here!r} here, {there!r} in {path}; {here!r} is used")
                self._departs = True
        saved = saved_config(self._checkpoint, path) if self.config.subcommand == "fit" else None
        if saved is not None:
            for key, here, there in differences(config.data.as_dict(), saved["data"]):
                _tell(f"data.{key}: {here!r} here, {there!r} in {path}; {here!r} is used")
                self._departs = True

    def _settle_seeds(self) -> None:
        """Gives the order and the augmentation of images the run's own seed, where they were given none.

        Another `seed_everything` is then another run in all that is drawn, but for what runs are compared on:
        drawn scenes and drawn splits have seeds of their own.
        """
        config = self.config[self.config.subcommand]
        if config.seed_everything is True:
            config.seed_everything = seed_everything(workers=True)  # PL_GLOBAL_SEED, or 0
        if config.get("data.init_args.seed", 0) is None:
            config["data.init_args.seed"] = int(config.seed_everything)  # false is 0, as StepSeed takes it

    def _resume_by_name(self, config: Namespace) -> None:
        """Turns to the run that has the name already, if there is one."""
        last = self.run_folder / "checkpoints" / "last.ckpt"
        if self.config.subcommand == "fit":
            if last.is_file():  # before any --ckpt_path, from which the run may have begun
                config.ckpt_path = str(last)
                self._strict = True
        elif (self.run_folder / "run.json").is_file():
            raise ValueError(f"run_id: {self.run_folder} is there already; only training resumes in its folder")

    def _repeatable(self) -> str:
        """Writes the configuration down without the moment: a resumed run is configured as it was started."""
        config = self.config[self.config.subcommand].clone()
        config.ckpt_path = None
        config.run_id = None
        return str(self._parser(self.config.subcommand).dump(config, skip_none=False))

    def before_instantiate_classes(self) -> None:
        """Settles where the run lives, before anything is built, and keeps the configuration as given."""
        config = self.config[self.subcommand]
        check_trainer(config.trainer, str(self.subcommand))
        check_classes(config.model)
        check_processes(config.trainer.devices, config.trainer.accelerator)
        self._config_yaml = self._repeatable()
        if self._checkpoint_path is not None:
            config.start.checkpoint = None  # weights come from there, and the other file may be gone
        if self._strict and self._checkpoint_path is not None:
            self.run_folder = Path(self._checkpoint_path).parents[1]
        elif self.subcommand == "fit" and not self._departs and not config.trainer.fast_dev_run:
            self.run_folder = run_of(self._checkpoint_path) or self.run_folder
        given = config.trainer.logger
        for logger in given if isinstance(given, list) else [given]:
            # Loggers whose folder is the working directory by default write into the run folder as well.
            if isinstance(logger, Namespace) and logger.get("init_args.save_dir") in {".", None}:
                logger["init_args.save_dir"] = str(self.run_folder)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; with a checkpoint at hand no pretrained weights are fetched."""
        if self._checkpoint is None:
            super().instantiate_classes()
            return
        with skip_pretrained_weights():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Makes a trainer that writes into the run folder and nowhere else, and the folder."""
        if self._checkpoint is not None:
            told = match_classes(
                self.model, self._checkpoint, self._checkpoint_path or "", self.subcommand != "fit"
            )
            if told is not None:
                _tell(told)
            check_fits(self.model, self._checkpoint, self._checkpoint_path or "")
            if self._filled_here:
                self.model.load_state_dict(self._checkpoint["state_dict"])
            del self._checkpoint  # Lightning reads it again; twice in memory is once too often
        config = self.config_init[self.subcommand].trainer
        self.trainer_defaults["callbacks"] = [
            RunFolder(self._checkpoint_path),
            ConvertSyncBatchNorm(config.sync_batchnorm),
            Preemption(),
            StepSeed(),
            TerminateOnNonFiniteLoss(),
            FeatureCache(),
            SelfDescribing(self._config_yaml, self.experiment),
            LedgerFile(),
            MetricsRows(),
            LabelCoverage(),
            SplitLists(),
        ]
        if config.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"].append(ProgressBar())
        if config.enable_model_summary is not False:
            self.trainer_defaults["callbacks"].append(ModelSummary())
        loggers = self._loggers(config.logger)
        if loggers and self.subcommand == "fit":
            self.trainer_defaults["callbacks"].append(LearningRateMonitor("step"))
        # Last, so that where everything is stands on the last lines, behind the progress bar's.
        self.trainer_defaults["callbacks"].append(RunMetadata(self._command, self._checkpoint_path))
        trainer = super().instantiate_trainer(
            default_root_dir=str(self.run_folder),
            logger=loggers or False,
            enable_model_summary=False,  # ours is among the callbacks
            use_distributed_sampler=False,
            sync_batchnorm=False,  # Lightning's way forgets what timm's norms do besides; see our callback
            **kwargs,
        )
        if trainer.is_global_zero:
            self._claims.add(self.run_folder)
            if not (self._strict and self._checkpoint_path):  # a resumed run keeps what it was begun with
                write_config(self.run_folder, self._config_yaml)
                remember(self._config_yaml, self.run_folder / "config.yaml")
        return trainer

    def _loggers(self, given: Any) -> list[Logger]:
        if given is False:
            return []
        loggers: list[Logger] = [MetricsCSV(self.run_folder)]
        if isinstance(given, Logger):
            loggers.append(given)
        elif isinstance(given, (list, tuple)):
            loggers.extend(given)
        choice = self.config[self.subcommand].logger
        if choice == "tensorboard":
            loggers.append(TensorBoardLogger(str(self.run_folder), name="", version="tensorboard"))
        elif choice == "wandb":
            loggers.append(_wandb_logger(self.run_folder, self.experiment))
        return loggers

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["weights_only"] = True
        if self._checkpoint_path is not None and self._filled_here:
            kwargs["ckpt_path"] = None
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # files have them; a list of all would fill the memory
        return kwargs


def run(args: list[str]) -> None:
    """Runs `fit`, `validate`, `test` or `predict`.

    Args:
        args: As on the command line, the verb first.
    """
    _quieten_lightning()
    with workers_ended(), RunLocks() as claims:
        try:
            SegbenchCLI(_expand(_expand_overlays(args), claims), args, claims)
        finally:  # the next run of this process gets a W&B run of its own
            wandb = sys.modules.get("wandb")
            if wandb is not None and wandb.run is not None:
                wandb.finish()


def _quieten_lightning() -> None:
    """Drops advertisements, and warnings that users can do nothing about."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.msg
    )
    for message in (
        r"Found \d+ module\(s\) in eval mode",  # a frozen encoder is meant to be
        r"It is recommended to use `self\.log\(.*sync_dist",  # counts are summed over processes before
        r".*isinstance\(treespec, LeafSpec\)",  # inside Lightning
        r"The ``compute`` method of metric ConfusionLedger was called before",  # a process without images
        r"The \.grad attribute of a Tensor that is not a leaf",  # torch.compile, between two parts
        # Steps are counted through all epochs, and the last one is logged in any case.
        r"The number of training batches \(\d+\) is smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message=message)


def _expand_overlays(args: list[str]) -> list[str]:
    """Reads `--overlay` as one more `--config`.

    Sweeps vary experiment and dataset at a time, for which they need two names.
    """
    return [re.sub(r"^--overlay(?==|$)", "--config", word) for word in args]


@rank_zero_only
def _tell(message: str) -> None:
    """Tells the user on stderr, once, however many processes there are."""
    print(escape_controls(without_passwords(message)), file=sys.stderr)


def _asks(args: list[str], option: str) -> bool:
    """Tells whether an option of ours is given, as `--name VALUE` or `--name=VALUE`."""
    return any(word == option or word.startswith(f"{option}=") for word in args)


def _expand(args: list[str], claims: RunLocks) -> list[str]:
    """Writes our short options out: where a checkpoint or a run folder carries the configuration.

    Args:
        args: With `--checkpoint CKPT` or `--resume RUN`, and `--trust PACKAGE`, or with `--init-from CKPT`
            anywhere, or without.
        claims: Gets the run folder that is resumed.

    Returns:
        Arguments that LightningCLI understands.

    Raises:
        ValueError: If the verb does not know the option, or two of them contradict each other.
    """
    finder = ArgumentParserLite(add_help=False, allow_abbrev=False)
    finder.add_argument("--checkpoint")
    finder.add_argument("--trust", action="append", default=[])
    finder.add_argument("--resume")
    finder.add_argument("--init-from", "--init_from")
    found, rest = finder.parse_known_args(args)
    verb, rest = rest[:1], rest[1:]
    if verb != ["fit"]:
        if found.resume is not None or found.init_from is not None:
            raise ValueError("--resume and --init-from belong to `segbench fit` alone")
    elif found.checkpoint is not None:
        raise ValueError(
            "`segbench fit` resumes a run by --resume RUN, and starts one from the weights of another by "
            "--init-from CKPT"
        )
    if found.resume is not None:
        if found.init_from is not None or _asks(rest, "--ckpt_path") or _asks(rest, "--run_id"):
            raise ValueError("--resume takes the run's own last checkpoint and folder: leave the others out")
        if (Path(found.resume) / "config.yaml").is_file():
            claims.add(Path(found.resume))  # before anything of it is read: another process may still write
        config, last = find_run(found.resume)
        check_own(config, read_names(found.trust))
        return [*verb, "--config", str(config), *rest, "--ckpt_path", str(last)]
    if found.init_from is not None:
        return [*verb, *rest, "--start.checkpoint", found.init_from]
    if found.checkpoint is not None:
        kept = run_config(read_checkpoint(found.checkpoint), found.checkpoint, read_names(found.trust))
        written = claims.enter_context(scratch()) / "checkpoint.yaml"
        written.write_text(yaml.safe_dump(kept))
        return [*verb, "--config", str(written), *rest, "--ckpt_path", found.checkpoint]
    if found.trust:
        raise ValueError(
            "--trust names packages whose classes a checkpoint or a run may name: give --checkpoint CKPT or "
            "--resume RUN"
        )
    return args


def _has_wandb_key() -> bool:
    """Tells whether W&B knows the user: by the environment, or by what `wandb login` leaves in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].split("/")[0]
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and host in netrc.read_text()


def _wandb_logger(folder: Path, experiment: str) -> WandbLogger:
    if find_spec("wandb") is None:
        raise ValueError("logger: wandb is not installed; pip install 'segbench[wandb]'")
    # wandb.api would know the key, but settles its mode when it is first asked.
    offline = os.environ.get("WANDB_MODE") == "offline" or not _has_wandb_key()
    # The folder names the run; a resumed one finds itself again even where its folder was moved.
    kept = wandb_run(folder)
    return WandbLogger(
        name=f"{experiment}/{folder.name}",
        save_dir=str(folder),
        id=kept.get("id", f"{experiment}-{folder.name}"),  # another experiment may have a run of that name
        resume="allow",
        offline=offline,
        mode="offline" if offline else os.environ.get("WANDB_MODE", "online"),
        project=kept.get("project") or os.environ.get("WANDB_PROJECT", "segbench"),
    )
