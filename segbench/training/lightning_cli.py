"""`segbench fit | validate | test | predict`: LightningCLI that gives every run a folder of its own."""

import logging
import sys
import warnings
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.cli import LightningCLI
from lightning_utilities.core.rank_zero import rank_zero_only

from segbench.callbacks.adaptive_class_weights import AdaptiveClassWeights  # noqa: F401 (YAML may name it)
from segbench.callbacks.checkpoints import SelfDescribing
from segbench.callbacks.feature_cache.callback import FeatureCache
from segbench.callbacks.label_coverage import LabelCoverage
from segbench.callbacks.ledger import LedgerFile
from segbench.callbacks.non_finite_loss import TerminateOnNonFiniteLoss
from segbench.callbacks.preemption import Preemption
from segbench.callbacks.progress import ModelSummary, ProgressBar
from segbench.callbacks.run_folder import RunFolder
from segbench.callbacks.run_metadata import RunMetadata
from segbench.callbacks.split_lists import SplitLists
from segbench.callbacks.step_seed import StepSeed
from segbench.callbacks.sync_batch_norm import ConvertSyncBatchNorm
from segbench.checkpoints.reading import check_fits
from segbench.checkpoints.trust import check_classes
from segbench.data.loading.workers import workers_ended
from segbench.encoders.base import skip_pretrained_weights
from segbench.runs.folder import RunLocks, write_config
from segbench.runs.metrics_csv import MetricsRows
from segbench.tasks.classes import match_classes
from segbench.training.arguments import expand
from segbench.training.loggers import make_loggers
from segbench.training.parser import TrainerParser
from segbench.training.plan import RunPlan, plan_run
from segbench.training.resume import remember
from segbench.training.trainer_options import check_trainer
from segbench.utils.environment import check_processes
from segbench.utils.files import scratch
from segbench.utils.printable import escape_controls, without_passwords


class SegbenchCLI(TrainerParser):
    """LightningCLI that carries out a `RunPlan`.

    Args:
        args: The command line for LightningCLI, `--checkpoint` and the like replaced.
        command: The command line as the user wrote it, for run.json.
        resume: Whether a run continues as it was started.
        locks: Gets the run folder.
    """

    def __init__(self, args: list[str], command: list[str], resume: bool, locks: RunLocks) -> None:
        self._command = command
        self._resume = resume
        self._locks = locks
        self._plan: RunPlan
        self._loads_weights_here = False  # instead of Lightning, which cannot read an exported file
        self._config_yaml = ""  # of a repetition of the run
        super().__init__(args)

    def _parse_ckpt_path(self) -> None:
        """Plans the run, in place of Lightning's hook, which lets a checkpoint override the configuration."""
        config = self.config[self.config.subcommand]
        _set_data_seed(config)  # before it is compared with the checkpoint's
        runs_dir = self._locks.enter_context(scratch()) if config.trainer.fast_dev_run else None
        plan = plan_run(
            self.resolved(), self._args or [], resume=self._resume, runs_dir=runs_dir, lock=self._locks.add
        )
        for note in plan.notes:
            _notify(note)
        config.experiment = plan.experiment
        config.ckpt_path = plan.checkpoint
        self._plan = plan

    def _set_seed(self) -> None:
        LightningCLI._set_seed(self)

    def before_instantiate_classes(self) -> None:
        """Checks what would otherwise fail only after data and model are built."""
        config = self.config[self.subcommand]
        check_trainer(config.trainer, str(self.subcommand))
        check_classes(config.model)
        check_processes(config.trainer.devices, config.trainer.accelerator)
        repeatable = config.clone()  # without what differs between a run and its continuation
        repeatable.ckpt_path = repeatable.run_id = None
        self._config_yaml = str(self._parser(self.subcommand).dump(repeatable, skip_unset=False))
        if self._plan.checkpoint is not None:
            config.start.checkpoint = None  # the weights come from `ckpt_path`; the other file may be gone
        given = config.trainer.logger
        for logger in given if isinstance(given, list) else [given]:
            # Loggers that would write into the working directory write into the run folder.
            if isinstance(logger, Namespace) and logger.get("init_args.save_dir") in {".", None}:
                logger["init_args.save_dir"] = str(self._plan.folder)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; with a checkpoint at hand no pretrained weights are fetched."""
        if self._plan.content is None:
            LightningCLI.instantiate_classes(self)
            return
        with skip_pretrained_weights():
            LightningCLI.instantiate_classes(self)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Builds a trainer that writes into the run folder and nowhere else, and makes the folder."""
        plan = self._plan
        if plan.content is not None:
            path = str(plan.checkpoint)
            note = match_classes(self.model, plan.content, path, self.subcommand != "fit")
            if note is not None:
                _notify(note)
            check_fits(self.model, plan.content, path)
            self._loads_weights_here = plan.holds_weights_only
            if self._loads_weights_here:
                self.model.load_state_dict(plan.content["state_dict"])
            plan.content.clear()  # Lightning reads the file again; memory for one copy must do
        options = self.config_init[self.subcommand]
        loggers = make_loggers(options.logger, options.trainer.logger, plan.folder, plan.experiment)
        self.trainer_defaults["callbacks"] = self._callbacks(options.trainer, bool(loggers))
        trainer = super().instantiate_trainer(
            default_root_dir=str(plan.folder),
            logger=loggers or False,
            enable_model_summary=False,  # ours is among the callbacks
            use_distributed_sampler=False,
            sync_batchnorm=False,  # Lightning's conversion loses timm's activations: see ConvertSyncBatchNorm
            **kwargs,
        )
        if trainer.is_global_zero:
            self._locks.add(plan.folder)
            if not plan.resumes:  # a resumed run keeps the configuration it was started with
                write_config(plan.folder, self._config_yaml)
                remember(self._config_yaml, plan.folder / "config.yaml")
        return trainer

    def _callbacks(self, options: Namespace, logs: bool) -> list[Callback]:
        checkpoint = self._plan.checkpoint
        callbacks: list[Callback] = [
            RunFolder(checkpoint),
            ConvertSyncBatchNorm(options.sync_batchnorm),
            Preemption(),
            StepSeed(),
            TerminateOnNonFiniteLoss(),
            FeatureCache(),
            SelfDescribing(self._config_yaml, self._plan.experiment),
            LedgerFile(),
            MetricsRows(),
            LabelCoverage(),
            SplitLists(),
        ]
        if options.enable_progress_bar is not False:
            callbacks.append(ProgressBar())
        if options.enable_model_summary is not False:
            callbacks.append(ModelSummary())
        if logs and self.subcommand == "fit":
            callbacks.append(LearningRateMonitor("step"))
        # Last, so that its closing lines come after the progress bar's.
        callbacks.append(RunMetadata(self._command, checkpoint))
        return callbacks

    def _run_subcommand(self, subcommand: str) -> None:
        LightningCLI._run_subcommand(self, subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["weights_only"] = True
        if self._plan.checkpoint is not None and self._loads_weights_here:
            kwargs["ckpt_path"] = None
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # they are in files; a list of all would fill the memory
        return kwargs


def run(args: list[str]) -> None:
    """Runs `fit`, `validate`, `test` or `predict`.

    Args:
        args: The command line, the verb first.

    Raises:
        ValueError: After a mistake in configuration, data or files.
    """
    _silence_lightning()
    with workers_ended(), RunLocks() as locks:
        try:
            expanded = expand(args, locks)
            SegbenchCLI(expanded.words, args, expanded.resume, locks)
        finally:  # the next run of this process gets a W&B run of its own
            wandb = sys.modules.get("wandb")
            if wandb is not None and wandb.run is not None:
                wandb.finish()


def _set_data_seed(config: Namespace) -> None:
    """Fixes the seed of the order and augmentation of images where none was given.

    A different `seed_everything` then changes every random number of a run except those on which runs are
    compared: synthetic scenes and random splits have seeds of their own.
    """
    if config.seed_everything is True:
        config.seed_everything = seed_everything(workers=True)  # PL_GLOBAL_SEED, or 0
    if config.get("data.init_args.seed", 0) is None:
        config["data.init_args.seed"] = int(config.seed_everything)  # false is 0, as StepSeed takes it


def _silence_lightning() -> None:
    """Drops advertisements, and warnings that users can do nothing about."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.msg
    )
    for message in (
        r"Found \d+ module\(s\) in eval mode",  # a frozen encoder is meant to be
        r"It is recommended to use `self\.log\(.*sync_dist",  # counts are reduced over processes before
        r".*isinstance\(treespec, LeafSpec\)",  # inside Lightning
        r"The ``compute`` method of metric ConfusionLedger was called before",  # a process without images
        r"The \.grad attribute of a Tensor that is not a leaf",  # torch.compile, between two parts
        # Steps are counted across epochs, and the last one is logged in any case.
        r"The number of training batches \(\d+\) is smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message=message)


@rank_zero_only
def _notify(message: str) -> None:
    """Prints a note on stderr, once for all processes."""
    print(escape_controls(without_passwords(message)), file=sys.stderr)
