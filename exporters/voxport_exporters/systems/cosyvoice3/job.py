"""Fun-CosyVoice3: release folder -> bundle (docs/systems/cosyvoice3.md). One folder holds one model.

Stages: text_embed, speech_embed, lm (llm.py); flow_encode, flow_speaker, flow_modulation, flow, flow_stream (flow.py);
f0, vocoder (vocoder.py); campplus, speech_tokenizer, which the release holds as graphs (frontend.py).

What the manifest says, for the runtime:

    variant    base, or rl for llm.rl.pt
    sampling   the settings of repetition-aware sampling, by upstream's names
    section    what Section of voxport.systems.cosyvoice3.section lists
    voices     none: those of spk2info.pt are enrolled ones, in voices/
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from voxport.recipe import Recipe
from voxport.systems.cosyvoice3.section import LlmSection, MelSection, Section
from voxport_exporters.checkpoints import folder
from voxport_exporters.checkpoints.weights import Weights
from voxport_exporters.graphs.part import Part, Parts
from voxport_exporters.pack import Job
from voxport_exporters.systems.cosyvoice3 import flow, frontend, tokenizer, vocoder, voices
from voxport_exporters.systems.cosyvoice3 import llm as language_model
from voxport_exporters.systems.cosyvoice3.config import QWEN, YAML, Config, read_config

LLM = {"base": "llm.pt", "rl": "llm.rl.pt"}
FLOW, VOCODER = "flow.pt", "hift.pt"

RECIPES = {name: Recipe(name, [*rules, *flow.FLOW_RULES[name]]) for name, rules in language_model.LLM_RULES.items()}
_VOCODER = vocoder.CODEC_RECIPES["fp32"].rule
CODEC_RECIPES = vocoder.CODEC_RECIPES | {
    name: Recipe(f"codec-{name}", [*_VOCODER, *frontend.FRONTEND_RULES[kind]])
    for name, kind in (("frontend-fp16", "fp16"), ("frontend-int8", "int8"))
}


def job(root: Path, variant: str | None = None, llm: str = "base", *, times: tuple[float, ...] = ()) -> Job:
    """The model in `root` (release layout), or in the one folder below it that is called `variant`.

    `llm`: base or rl; `times`: of the flow for which there are modulations, beside those of its Euler steps.
    Raises FileNotFoundError or ValueError that say in one line what is missing, or list the folders there are.
    """
    model = _find(root, variant)
    config = read_config(model)
    files = [folder.weights(model, name) for name in (LLM[llm], FLOW, VOCODER)]
    text, text_files = tokenizer.tokenizer(model, config.decoder.vocab)
    graphs = frontend.graphs(model, config)
    speakers: dict[str, Path | bytes] = {**voices.files(model, text, config.mel.num_mels)}

    def parts() -> Iterator[Part]:
        yield from language_model.parts(Weights.open(files[0]), config)
        yield from flow.parts(Weights.open(files[1]), config, times=times)
        yield from vocoder.parts(Weights.open(files[2]), config)

    return Job(
        system="cosyvoice3",
        variant=llm,
        sample_rate=config.sample_rate,
        parts=Parts(parts),
        checkpoint=(
            *(model / YAML, model / QWEN / "config.json", *files),
            *text_files,
            *(graph.path for graph in graphs),
            *((model / voices.FILE,) if speakers else ()),
        ),
        root=model,
        section=section(config),
        sampling=msgspec.to_builtins(config.llm.sampling),
        graphs=graphs,
        files={"tokenizer.json": text, **speakers},
    )


def _find(root: Path, variant: str | None) -> Path:
    """The folder of the model: `root`, or the one below it. Raises ValueError that lists all there are."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if (root / YAML).is_file() or not (found := sorted(path.parent for path in root.glob(f"*/{YAML}"))):
        return root
    return folder.choose(root, [(path.name, path) for path in found], variant, "a Fun-CosyVoice3 folder")


def section(config: Config) -> Section:
    """The manifest's section."""
    llm, mel = config.llm, config.mel
    return Section(
        token_rate=config.token_frame_rate,
        llm=LlmSection(llm.speech_token_size, config.decoder.context, llm.mix_ratio),
        flow=flow.section(config.flow),
        vocoder=vocoder.section(config),
        mel=MelSection(mel.win_size, mel.n_fft, mel.hop_size, mel.num_mels, mel.fmin, mel.fmax),
    )
