"""Commands, code and links of the README work."""

import re
import sys
from pathlib import Path

import pytest

from segbench.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    (first, *_) = blocks("bash")
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]
    mentioned = {target for line in re.findall(r"`make ([a-z -]+)`", README) for target in line.split()}
    assert mentioned <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_example_decoder_trains(tmp_path, monkeypatch, capsys):
    (code,) = [block for block in blocks("python") if "class ConvDecoder" in block]
    (tmp_path / "my_file.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"`segbench (fit [^`]*my_file[^`]*)`", README)
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(
        "data: {class_path: segbench.data.synthetic.SyntheticDataModule, init_args: {num_classes: 3, "
        "image_size: [32, 32], num_images: {train: 2, val: 1, test: 1}, img_size: [32, 32], batch_size: 2, "
        "num_workers: 0, scale: null}}\n"
        "model: {init_args: {encoder: {init_args: {pretrained: false, depths: [0]}}, window: null, "
        "stride: null}}\n"
        "trainer: {accelerator: cpu, max_steps: 1, val_check_interval: 1, enable_progress_bar: false}\n"
    )
    verb, *options = command.replace("experiments/", f"{ROOT}/experiments/").split()
    # The overlay follows the experiment, as in the README.
    main([verb, *options[:2], "--config", str(overlay), *options[2:]])
    assert list(tmp_path.glob("runs/*/*/checkpoints/best.ckpt"))
    sys.modules.pop("my_file", None)


def option_table() -> list[str]:
    section = README.split("\n## Train, score, segment\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| [^|]+ \| (.+) \|$", section, flags=re.MULTILINE)
    return [option for cell in cells for option in re.findall(r"`(--[^`]+)`", cell)]


@pytest.mark.parametrize("option", option_table())
def test_option_of_the_table_parses(option, capsys):
    if "MyDecoder" in option:
        option = option.replace("my_package.MyDecoder", "segbench.decoders.linear.LinearDecoder")
    configs = ["--config", str(ROOT / "experiments" / "linear.yaml")]
    configs += ["--config", str(ROOT / "experiments" / "data" / "synthetic.yaml")]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *configs, *option.replace("FILE", "README.md").split(), "--print_config"])
    assert stop.value.code in (0, None)
    assert "class_path: segbench.tasks." in capsys.readouterr().out


def test_table_of_options_is_found():
    assert len(option_table()) >= 7


def test_linked_files_and_sections_exist():
    titles = re.findall(r"^#+ (.+)$", README, flags=re.MULTILINE)
    sections = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for path in re.findall(r"\]\(((?!http)[^)]+)\)|`((?:segbench|experiments)/[\w/.]+)`", README):
        name, _, section = (path[0] or path[1]).partition("#")
        assert (ROOT / name).exists(), name
        assert not section or section in sections, section
