"""One line is left of any mistake."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import cv2
import optuna
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch.utils.data import DataLoader

from segbench.utils import errors
from segbench.utils.errors import one_line, one_line_errors, one_line_warnings, readable

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'segbench.tasks.base.Task'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'a.B':
        Parser key "decoder":
          Type collections.abc.Callable[[X, int], Y] expects a function or a callable class: Expected 'Z' \
to be a subclass of <class 'Y'>. Got value: Namespace(class_path='Z')
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='decoder', val='Z')"""


def test_nested_messages_are_reduced_to_keys_and_cause():
    assert readable(ValueError(NESTED)) == "model (a.B) decoder: Expected 'Z' to be a subclass of <class 'Y'>"


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("Expected a typing.Literal[2, 4]. Got value: 3", "decoder block_size: choose one of 2, 4; got 3"),
        ("Expected a <class 'list'>", "decoder block_size: give a list"),
    ],
)
def test_an_option_of_a_part_is_a_key_too_and_its_type_is_told_in_words(cause, told):
    text = f"""Parser key "decoder":
  Type collections.abc.Callable[[X, int], Y] expects a function or a callable class: Parser key "block_size":
    {cause}. Got value: Namespace(class_path='Z')"""
    assert readable(ValueError(text)) == told


def test_worker_tracebacks_are_reduced_to_their_message():
    text = 'Caught ValueError in DataLoader worker process 0.\nTraceback:\n  File "x"\nValueError: a.png: bad'
    assert readable(ValueError(text)) == "a.png: bad"


def test_files_are_named():
    assert readable(PermissionError(13, "Permission denied", "runs/a")) == "Permission denied: runs/a"


def test_the_wrapper_of_a_link_is_dropped_though_it_spans_lines():
    text = (
        "Call to compute_fn of link 'f(data) --> model.x' with args ({a: None}\n{b: None}) failed: no folder x"
    )
    assert readable(ValueError(text)) == "no folder x"


def test_plain_messages_pass():
    assert readable(ValueError("one\n  two")) == "one; two"
    assert readable(ValueError()) == "ValueError"


def test_exit_status_and_traceback_on_request(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise ValueError("what is wrong")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("segbench: error: what is wrong [")
    monkeypatch.setenv("SEGBENCH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="what is wrong"), one_line_errors():
        raise ValueError("what is wrong")


def test_faults_of_ours_are_not_hidden():
    with pytest.raises(TypeError), one_line_errors():
        raise TypeError("a fault")


def too_large():
    try:
        torch.empty(1 << 60)
    except RuntimeError as error:
        return error


def in_worker(error):
    """As torch raises it again in the main process."""
    name = type(error).__name__
    return type(error)(f"Caught {name} in DataLoader worker process 0.\nTraceback:\n  x\n{name}: {error}")


KILLED = "DataLoader worker (pid(s) 12) exited unexpectedly"
BUS = (
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are "
    "out of shared memory. Please try to raise your shared memory limit."
)
SHORTAGES = {
    "device in training": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
        "fit",
        ["device is out of memory (20.00 GiB requested)", "--data.init_args.batch_size", "bf16-mixed"],
    ),
    "device, from a library": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "segment", ["--window"]),
    "host": (too_large(), "test", ["machine is out of memory", "--model.init_args.windows_per_batch"]),
    "host in Python": (MemoryError(), "segment", ["machine is out of memory", "--batch_size"]),
    "host in a worker": (
        in_worker(MemoryError("Unable to allocate 4.00 TiB for an array")),
        "fit",
        ["machine is out of memory", "num_workers"],
    ),
    "host, known to the reader": (
        in_worker(MemoryError("a.png does not fit: split it")),
        "fit",
        ["a.png does not"],
    ),
    "host in OpenCV": (
        cv2.error("OpenCV: error: (-4:Insufficient memory) Failed"),
        "doctor",
        ["--num_workers"],
    ),
    "fork": (
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        "tune-regions",
        ["machine is out of", "--workers"],
    ),
    "killed worker": (
        RuntimeError(KILLED),
        "fit",
        ["a loader worker was killed", "--data.init_args.num_workers"],
    ),
    "shared memory": (RuntimeError(BUS), "fit", ["shared memory", "--shm-size"]),
    "shared memory file": (
        RuntimeError("unable to write to file </torch_12_34_0>: No space left on device (28)"),
        "validate",
        ["shared memory", "--shm-size"],
    ),
    "files": (OSError(errno.EMFILE, "Too many open files", "a.png"), "fit", ["too many files", "ulimit -n"]),
    "threads": (RuntimeError("can't start new thread"), "fit", ["ulimit -u"]),
    "lost process": (RuntimeError("[gloo/x.cc:1] Connection closed by peer"), "fit", ["--resume RUN"]),
    "disk": (
        OSError(errno.ENOSPC, "No space left on device", "a/b.ckpt"),
        "fit",
        ["a/b.ckpt; free", "--runs_dir"],
    ),
    "quota": (
        OSError(errno.EDQUOT, "Disk quota exceeded", "a"),
        "segment",
        ["Disk quota exceeded: a", "--out"],
    ),
}


@pytest.mark.parametrize("name", SHORTAGES)
def test_a_shortage_is_one_line_with_what_helps(name):
    error, verb, told = SHORTAGES[name]
    error.add_note("`segbench fit --resume RUN` resumes from step 3")
    line = one_line(error, verb)
    assert "\n" not in line
    assert line.endswith("; `segbench fit --resume RUN` resumes from step 3")
    for words in told:
        assert words in line


def test_a_full_cache_names_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    line = one_line(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "features-1" / "a")), "fit")
    assert "SEGBENCH_CACHE" in line


@pytest.mark.parametrize(
    "error",
    [
        MisconfigurationException("choose devices"),
        optuna.exceptions.StorageInternalError("no database"),
        Image.DecompressionBombError("too many pixels"),
        cv2.error("no codec"),
    ],
)
def test_what_libraries_tell_their_users_is_one_line(error):
    assert one_line(error) == str(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), KeyError("x"), AssertionError()]
)
def test_bugs_keep_their_traceback(error):
    assert one_line(error, "fit") is None


class Deadly:
    """A dataset whose second item kills its worker."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_worker_is_recognised_by_what_this_torch_says():
    with pytest.raises(RuntimeError) as raised:
        list(DataLoader(Deadly(), num_workers=1))
    assert "a loader worker was killed" in one_line(raised.value, "fit")


@pytest.mark.parametrize("command", [["doctor", "--config"], ["fit"], ["segment"]])
def test_ctrl_c_in_the_midst_of_imports_is_one_line(command, tmp_path):
    """A module that is imported sends the signal, as it were while torch is loaded."""
    (tmp_path / "torch.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport nothing\n"
    )
    (tmp_path / "config.yaml").write_text("data: {}\n")
    command = [*command, "config.yaml"] if command[-1] == "--config" else [*command, "--checkpoint", "x"]
    ended = subprocess.run(
        [sys.executable, "-m", "segbench", *command, "a.png", "--out", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert ended.returncode == 130
    assert ended.stderr == "\nsegbench: stopped\n"


def test_warnings_are_one_line_that_no_name_in_them_can_break():
    with one_line_warnings():
        ours = warnings.formatwarning("two\nlines and \x1b[31mred", UserWarning, errors.__file__, 7)
        other = warnings.formatwarning("not ours", UserWarning, "/elsewhere/file.py", 7)
    assert ours == "segbench: warning: two lines and \\x1b[31mred\n"
    assert other == "/elsewhere/file.py:7: UserWarning: not ours\n"
