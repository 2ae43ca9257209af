"""What a command will do is decided from configuration and files, before anything is built."""

from pathlib import Path

import pytest
import torch
import yaml

from segbench.training.plan import plan_run

MODEL = {
    "class_path": "segbench.tasks.semantic.SemanticTask",
    "init_args": {"stride": 4, "windows_per_batch": 1},
}
DATA = {"class_path": "segbench.data.folder.FolderDataModule", "init_args": {"batch_size": 2, "root": "here"}}
CONFIG = {
    "experiment": None,
    "runs_dir": "runs",
    "run_id": None,
    "ckpt_path": None,
    "seed_everything": 0,
    "model": MODEL,
    "data": DATA,
    "trainer": {"max_steps": 4, "fast_dev_run": False},
}
ARGV = ["fit", "--config", "experiments/linear.yaml", "--config", "experiments/data/camvid.yaml"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def changed(**changes):
    return {**CONFIG, **changes}


def trained(run_id="first", config=CONFIG, training_state=True):
    """A run folder as training leaves it, without weights."""
    run = Path("runs") / "linear-camvid" / run_id
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    model = {"_class_path": MODEL["class_path"], **config["model"]["init_args"]}
    saved = {
        "hyper_parameters": model,
        "state_dict": {},
        "segbench": {"config": yaml.safe_dump({**config, "experiment": "linear-camvid"})},
    }
    if training_state:
        saved |= {
            "pytorch-lightning_version": "2.6.6",
            "optimizer_states": [{}],
            "lr_schedulers": [],
            "loops": {},
            "global_step": 4,
            "epoch": 0,
        }
    path = run / "checkpoints" / "last.ckpt"
    torch.save(saved, path)
    return path


def test_a_new_run_gets_a_folder_named_after_its_files():
    plan = plan_run(CONFIG, ARGV)
    assert plan.experiment == "linear-camvid"
    assert plan.folder.parent == Path("runs/linear-camvid")
    assert (plan.checkpoint, plan.content, plan.resumes, plan.notes) == (None, None, False, ())
    assert plan_run(CONFIG, ARGV).folder != plan.folder
    assert plan_run(changed(experiment="mine", run_id="../one"), ARGV).folder == Path("runs/mine/_one")
    assert not Path("runs").exists()


def test_scoring_without_a_checkpoint_is_noted():
    assert "no checkpoint is given" in plan_run(CONFIG, ["test", *ARGV[1:]]).notes[0]


def test_a_named_run_is_locked_before_it_is_read_and_resumes_where_it_has_a_checkpoint():
    locked = []
    named = changed(run_id="first")
    assert not plan_run(named, ARGV, lock=locked.append).resumes
    path = trained()
    plan = plan_run(named, ARGV, lock=locked.append)
    assert plan.resumes
    assert plan.checkpoint == str(path)
    assert plan.folder == Path("runs/linear-camvid/first")
    assert locked == [plan.folder, plan.folder]
    with pytest.raises(ValueError, match="only training resumes in its folder"):
        plan_run(named, ["test", *ARGV[1:]])


def test_resuming_refuses_changes_of_weights_and_scores_and_accepts_others():
    path = str(trained())
    same = changed(ckpt_path=path)
    assert plan_run(same, ARGV, resume=True).resumes
    windows = {**MODEL, "init_args": {"stride": 4, "windows_per_batch": 8}}
    assert plan_run(changed(ckpt_path=path, model=windows), ARGV, resume=True).resumes
    stride = {**MODEL, "init_args": {"stride": 5, "windows_per_batch": 1}}
    with pytest.raises(ValueError, match=r"model.init_args.stride: 5 here, 4 there"):
        plan_run(changed(ckpt_path=path, model=stride), ARGV, resume=True)
    with pytest.raises(ValueError, match=r"trainer.max_steps: 9 here, 4 there"):
        plan_run(changed(ckpt_path=path, trainer={"max_steps": 9, "fast_dev_run": False}), ARGV, resume=True)


def test_training_on_with_other_settings_is_noted_and_gets_another_folder():
    path = str(trained())
    assert plan_run(changed(ckpt_path=path), ARGV).folder.absolute() == Path(path).absolute().parents[1]
    data = {**DATA, "init_args": {"batch_size": 8, "root": "here"}}
    plan = plan_run(changed(ckpt_path=path, data=data), ARGV)
    assert plan.notes == (f"data.init_args.batch_size: 8 here, 2 in {path}; 8 is used",)
    assert plan.folder.name != "first"
    assert not plan.resumes


def test_a_checkpoint_without_training_state_can_be_scored_and_not_resumed():
    path = str(trained(training_state=False))
    with pytest.raises(ValueError, match="holds weights, but no optimiser"):
        plan_run(changed(ckpt_path=path), ARGV)
    assert plan_run(changed(ckpt_path=path), ["test", *ARGV[1:]]).holds_weights_only
