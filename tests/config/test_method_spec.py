"""Method specifications: what is read, what is refused and with which words."""

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import METHODS, MethodSpec

KNOWN = ", ".join(METHODS)


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        MethodSpec.parse(text)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


def test_a_name_alone_has_the_defaults() -> None:
    spec = MethodSpec.parse("fastvlm")
    assert (spec.name, spec.label, spec.lossless) == ("fastvlm", "fastvlm", True)
    assert spec.options == {"gamma": 10, "stop_below": 0.5}  # exit layer and head are the draft's own
    assert MethodSpec.parse("layerskip").options == {"gamma": 10, "exit_layer": 2, "stop_below": 0.5}
    assert MethodSpec.parse("standard").options == MethodSpec.parse("hf-generate").options == {}
    assert MethodSpec.parse("early-exit").options == {}


def test_all_options() -> None:
    spec = MethodSpec.parse("fastvlm:gamma=4,exit_layer=6,head=mlp,stop_below=0.6")
    assert spec.options == {"gamma": 4, "exit_layer": 6, "head": "mlp", "stop_below": 0.6}
    assert isinstance(spec.options["gamma"], int) and isinstance(spec.options["stop_below"], float)


def test_the_label_is_what_was_typed_and_the_text_is_canonical() -> None:
    one = MethodSpec.parse(" fastvlm: stop_below = .60 ,gamma=04")
    other = MethodSpec.parse("fastvlm:gamma=4,stop_below=6e-1")
    assert one.label == "fastvlm: stop_below = .60 ,gamma=04"
    assert str(one) == str(other) == "fastvlm:gamma=4,stop_below=0.6"
    assert str(MethodSpec.parse("standard")) == "standard"


@pytest.mark.parametrize("name", list(METHODS))
def test_the_canonical_form_reads_back(name: str) -> None:
    options = METHODS[name].options
    needed = ",".join(f"{key}={'1+2' if options[key].joined else 'owner/name'}" for key in METHODS[name].needed)
    spec = MethodSpec.parse(f"{name}:{needed}" if needed else name)
    again = MethodSpec.parse(str(spec))
    assert (again.options, str(again)) == (spec.options, str(spec))


def test_early_exit_may_change_the_output_and_the_reference_comes_first() -> None:
    assert not METHODS["early-exit"].lossless and METHODS["fastvlm"].lossless
    assert list(METHODS) == ["standard", *sorted(set(METHODS) - {"standard"})]


def test_shared_options_reach_those_that_take_them_and_do_not_name_their_own() -> None:
    def options(text: str) -> dict[str, object]:
        return dict(MethodSpec.parse(text, gamma=3, exit_layer=5).options)

    assert options("fastvlm") == {"gamma": 3, "exit_layer": 5, "stop_below": 0.5}
    assert options("fastvlm:gamma=8") == {"gamma": 8, "exit_layer": 5, "stop_below": 0.5}
    assert options("layerskip:exit_layer=1") == {"gamma": 3, "exit_layer": 1, "stop_below": 0.5}
    assert options("early-exit") == {"exit_layer": 5}
    assert options("standard") == {}


@pytest.mark.parametrize(("text", "message"), [
    ("fastvml", f"unknown method 'fastvml': one of {KNOWN}; did you mean 'fastvlm'?"),
    ("early_exit", f"unknown method 'early_exit': one of {KNOWN}; did you mean 'early-exit'?"),
    ("", f"unknown method '': one of {KNOWN}"),
    ("fastvlm:gama=4", "method 'fastvlm' has no option 'gama': it takes gamma, draft, exit_layer, head, stop_below, "
                       "topk, nodes, branch_above; did you mean 'gamma'?"),
    ("fastvlm:exit-layer=4", "method 'fastvlm' has no option 'exit-layer': it takes gamma, draft, exit_layer, head, "
                             "stop_below, topk, nodes, branch_above"
                             "; did you mean 'exit_layer'?"),
    ("standard:gamma=4", "method 'standard' has no option 'gamma': it takes none"),
    ("early-exit:gamma=4", "method 'early-exit' has no option 'gamma': it takes draft, exit_layer, head"),
    ("fastvlm:head=mpl", "option 'head' of method 'fastvlm' is 'mpl'; it must be one of linear, mlp, gated-mlp, "
                         "attention, twig, eagle, block, as in fastvlm:head=…; did you mean 'mlp'?"),
    ("fastvlm:gamma", "option 'gamma' of method 'fastvlm' is without a value; it must be a whole number of at least 1, "
                      "at most 64, as in fastvlm:gamma=…"),
    ("fastvlm:gamma=4,gamma=5", "method 'fastvlm:gamma=4,gamma=5' gives an option twice; name each once"),
])  # fmt: skip
def test_refusals_in_full(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize("text", [
    "fastvlm:gamma=0", "fastvlm:gamma=65", "fastvlm:gamma=-1", "fastvlm:gamma=4.0", "fastvlm:gamma=1e1",
    "fastvlm:gamma=", "fastvlm:gamma=1_0", "fastvlm:gamma=٤", "fastvlm:gamma=99999999999999999999",
    "fastvlm:exit_layer=0", "fastvlm:stop_below=1",
    "fastvlm:stop_below=-0.1", "fastvlm:stop_below=nan", "fastvlm:stop_below=inf",
    "fastvlm:stop_below=1e-", "fastvlm:head=", "fastvlm:", "fastvlm:,", "fastvlm:gamma=4,", "fastvlm:stop_below=0,6",
    "fastvlm:gamma=4=5", "standard:", "fastvlm gamma=4", "FastVLM",
])  # fmt: skip
def test_refused(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize("option", ["gamma=1", "gamma=64", "stop_below=0", "stop_below=.999"])
def test_the_ends_of_the_ranges_are_allowed(option: str) -> None:
    key, _, value = option.partition("=")
    assert MethodSpec.parse(f"fastvlm:{option}").options[key] == float(value)
