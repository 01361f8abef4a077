"""What people say about a scene: captions of one sentence and long descriptions.

Every text is a pure function of the scene. The model is mostly taught the first variant. Its sentence plan follows from
the scene (time of day, what is there, how many), so that one text is clearly the likeliest. The other variants are what
further annotators would write.
"""

from collections import Counter
from collections.abc import Sequence

from fastvlm_bench.world.scenes import KINDS, Object, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five")
CAPTION_VARIANTS = 5
CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
PHOTO_PROMPT = "a photo of"  # BLIP-2's
DESCRIBE_PROMPT = "Describe this image in detail."
STORIES = (
    "Describe this picture at length.",
    "Tell a short story about this picture.",
    "List what is in this picture, and explain what each thing is used for.",
    "Write a letter to a friend about what you see in this picture.",
    "What may happen next in this picture? Explain your thoughts.",
    "Write a poem about this picture.",
)
"""Open prompts, which have no reference: long natural text of a model that can write it."""
LONG_PROMPT = "Write a long and detailed description of this image."
ANIMALS = ("bird", "cat", "dog", "duck", "fish")
COLUMNS = ("on the left", "in the middle", "on the right")
LANDSCAPE = {"meadow": "a meadow", "beach": "a beach", "lake": "a lake", "snow": "a snowy field", "street": "a street"}
AT = {"meadow": "in a meadow", "beach": "at the beach", "lake": "on a lake", "snow": "in the snow",
      "street": "on a street"}  # fmt: skip
VERBS = {
    "sun": "shines", "moon": "shines", "star": "shines", "cloud": "drifts", "bird": "flies", "balloon": "floats",
    "kite": "flies", "house": "stands", "tree": "grows", "car": "waits", "cat": "sits", "dog": "stands",
    "flower": "grows", "ball": "lies", "umbrella": "stands", "snowman": "stands", "boat": "sails", "duck": "swims",
    "fish": "swims",
}  # fmt: skip
ROWS = {  # how a description begins to tell of the sky (see HEAVENS), of the middle row and of the front row
    "meadow": ("sky", "Further back", "In the grass in front"), "beach": ("sky", "In the water", "On the sand"),
    "lake": ("sky", "Further out", "Closer to us"), "snow": ("sky", "In the distance", "In the foreground"),
    "street": ("sky", "Across the street", "On the road"),
}  # fmt: skip
HEAVENS = {"day": "In the bright sky", "sunset": "In the evening sky", "night": "In the dark sky"}


def plural(kind: str) -> str:
    return {"fish": "fish", "snowman": "snowmen"}.get(kind, kind + "s")


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def colored(item: Object) -> str:
    """Colour and kind; the colour is left out where the kind has only one."""
    return item.kind if len(KINDS[item.kind]) == 1 else f"{item.color} {item.kind}"


def noun(item: Object, *, size: bool = True) -> str:
    """A noun phrase such as "a large red boat"."""
    return article(f"{item.size} {colored(item)}" if size else colored(item))


def listed(phrases: Sequence[str]) -> str:
    """The phrases joined as in a sentence: "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def verb(kind: str, count: int) -> str:
    single = VERBS[kind]
    return single if count == 1 else {"flies": "fly"}.get(single, single.removesuffix("s"))


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def beside(a: Object, b: Object) -> str:
    """Where a is, seen from b: to the left or right, or, in the same column, above or below."""
    if a.column != b.column:
        return "to the left of" if a.column < b.column else "to the right of"
    return "above" if a.row < b.row else "below"


def moment(scene: Scene) -> str:
    """The time of day as the end of a sentence."""
    if scene.time != "day":
        return {"sunset": "at sunset", "night": "at night"}[scene.time]
    kinds = {o.kind for o in scene.objects}
    return "on a sunny day" if "sun" in kinds else "on a cloudy day" if "cloud" in kinds else "during the day"


def groups(objects: Sequence[Object]) -> list[list[Object]]:
    """The things grouped by kind, in the order in which the kinds first occur."""
    return [[o for o in objects if o.kind == kind] for kind in dict.fromkeys(o.kind for o in objects)]


def together(group: Sequence[Object], *, size: bool = False) -> str:
    """A noun phrase for things of one kind: "a small white duck", "two red fish", "three boats"."""
    first = group[0]
    if len(group) == 1:
        return noun(first, size=size)
    alike = len({o.color for o in group}) == 1 and len(KINDS[first.kind]) > 1
    return f"{NUMBERS[len(group)]} {first.color + ' ' if alike else ''}{plural(first.kind)}"


def caption(scene: Scene, variant: int) -> str:
    """One sentence about the scene, in one of five manners (0..4)."""
    manner = (_main_caption, _there_is, _place_first, _related, _kinds_only)[variant]
    return capital(manner(scene)) + "."


def _main_caption(scene: Scene) -> str:
    sky = groups([o for o in scene.objects if o.row == 0])
    ground = groups([o for o in scene.objects if o.row > 0])
    if not ground:
        over = f"over {LANDSCAPE[scene.place]} {moment(scene)}"
        if len(sky) == 1:
            return f"{together(sky[0], size=True)} {verb(sky[0][0].kind, len(sky[0]))} {over}"
        return f"{listed([together(g) for g in sky])} {over}"
    first, *others = ground
    says = together(first, size=True)
    if len(others) < 2:
        says += f" {verb(first[0].kind, len(first))}" + (f" near {together(others[0])}" if others else "")
    else:
        says = listed([says, *map(together, others)])
    where = "in a lake" if scene.place == "lake" and first[0].kind == "fish" else AT[scene.place]
    if not sky:
        return f"{says} {where} {moment(scene)}"
    lights = [together(g) for g in sky if g[0].kind in ("moon", "star")]
    fliers = [together(g) for g in sky if g[0].kind not in ("moon", "star")]
    says += f" {where}{'' if scene.time == 'day' else ' ' + moment(scene)}"
    says += f" under {listed(lights)}" if lights else ""
    return f"{says} with {listed(fliers)} in the sky" if fliers else says


def _there_is(scene: Scene) -> str:
    found = groups(scene.objects)
    be = "is" if len(found[0]) == 1 else "are"
    return f"there {be} {listed([together(g) for g in found])} in this picture of {LANDSCAPE[scene.place]}"


def _place_first(scene: Scene) -> str:
    found = [together(g, size=len(g) == 1) for g in groups(scene.objects)]
    return f"{LANDSCAPE[scene.place]} {moment(scene)} with {listed(found)}"


def _related(scene: Scene) -> str:
    a, *rest = sorted(scene.objects, key=lambda o: -o.cell)
    where = f"in a picture of {LANDSCAPE[scene.place]}"
    if not rest:
        return f"{noun(a)} in the {a.position} of a picture of {LANDSCAPE[scene.place]}"
    b = rest[0]
    if colored(a) == colored(b):
        return f"{noun(a, size=False)} {beside(a, b)} another {colored(b)} {where}"
    return f"{noun(a)} {beside(a, b)} {noun(b)} {where}"


def _kinds_only(scene: Scene) -> str:
    names = []
    for group in groups(scene.objects):
        kind = group[0].kind
        one = f"the {kind}" if kind in ("sun", "moon") else article(kind)
        names.append(one if len(group) == 1 else f"{NUMBERS[len(group)]} {plural(kind)}")
    return f"a drawing of {listed(names)} {moment(scene)}"


def description(scene: Scene, variant: int = 0) -> str:
    """The long description: place, time and number, each row from left to right, who is where, what is
    large, animals.

    Variant 0 is what the model is taught; 1 and 2 are what other annotators would write.
    """
    return " ".join(capital(line) + "." for line in (_rows, _one_by_one, _counted)[variant](scene))


def _opening(scene: Scene) -> str:
    count = len(scene.objects)
    things = f"{NUMBERS[count]} thing{'s' if count > 1 else ''} to see"
    be = "is" if count == 1 else "are"
    if scene.time == "night":
        return f"it is night in this picture of {LANDSCAPE[scene.place]}, and there {be} {things}"
    if scene.time == "sunset":
        return f"the sun is going down over {LANDSCAPE[scene.place]}, where there {be} {things}"
    return f"this picture shows {LANDSCAPE[scene.place]} {moment(scene)}, with {things}"


def _rows(scene: Scene) -> list[str]:
    return [line for _, line in stated(scene)]


def stated(scene: Scene) -> list[tuple[str, str]]:
    """(what it states, sentence) for each sentence of the description, see the keys of `parts` below."""
    lines, told = [("opening", _opening(scene))], set[str]()
    for row, lead in enumerate(ROWS[scene.place]):
        if items := [o for o in scene.objects if o.row == row]:
            lines.append(("row", f"{HEAVENS[scene.time] if row == 0 else lead}, {_row(items, told)}"))
    parts = {"whereabouts": _whereabouts(scene), "sizes": _sizes(scene), "animals": _animals(scene)}
    order = ("sizes", "whereabouts", "animals") if scene.time == "sunset" else tuple(parts)
    return lines + [(kind, line) for kind in order for line in parts[kind]]


def _row(items: list[Object], told: set[str]) -> str:
    """The things of one row, each with its column. A verb that the thing before had, too, is left out.

    told: the things described so far, to which the row's own are added; a thing like one of them is "another".
    """
    names = [f"{o.size} {colored(o)}" for o in items]
    if len(items) > 1 and len(set(names)) == 1 and names[0] not in told:
        told.add(names[0])
        kind, count = items[0].kind, len(items)
        said = f"{NUMBERS[count]} {names[0].removesuffix(kind)}{plural(kind)} {verb(kind, count)}"
        return said + (" side by side" if count == 3 else f", one {COLUMNS[items[0].column]} and the other "
                       f"{COLUMNS[items[1].column]}")  # fmt: skip
    phrases, last = [], ""
    for item, name in zip(items, names, strict=True):
        who = f"another {name}" if name in told else article(name)
        told.add(name)
        does = "" if VERBS[item.kind] == last else f" {VERBS[item.kind]}"
        last = VERBS[item.kind]
        phrases.append(f"{who}{does} {COLUMNS[item.column]}")
    return listed(phrases)


def alone(scene: Scene) -> list[Object]:
    """The things whose kind is there only once, so that "the dog" can only mean one."""
    counts = Counter(o.kind for o in scene.objects)
    return [o for o in scene.objects if counts[o.kind] == 1]


def _whereabouts(scene: Scene) -> list[str]:
    """Where each of the first lone things is from the one before it, for at most three of them."""
    lone = alone(scene)[:3]
    return [f"the {b.kind} is {beside(b, a)} the {a.kind}" for a, b in zip(lone, lone[1:], strict=False)]


def _sizes(scene: Scene) -> list[str]:
    """Names the large things, or says that all are alike."""
    count = len(scene.objects)
    large = [o for o in scene.objects if o.size == "large"]
    if count == 1:
        return []
    if len(large) in (0, count):
        return [f"{'both' if count == 2 else 'all'} of them are {'large' if large else 'small'}"]
    names, told = [], set[str]()
    for item in large:
        name = colored(item)
        names.append(f"{'another' if name in told else 'the'} {name}")
        told.add(name)
    return [f"the only large thing is {names[0]}" if len(large) == 1 else f"the large things are {listed(names)}"]


def _animals(scene: Scene) -> list[str]:
    found = [o for o in scene.objects if o.kind in ANIMALS]
    if not found:
        return ["no animals can be seen"]
    if len(found) == 1:
        return [f"the only animal is the {found[0].color} {found[0].kind}"]
    if len(found) == len(scene.objects):
        return ["everything in the picture is an animal"]
    return [f"{NUMBERS[len(found)]} of them are animals"]


def _one_by_one(scene: Scene) -> list[str]:
    lines, told = [f"this is {LANDSCAPE[scene.place]} {moment(scene)}"], set[str]()
    for item in scene.objects:
        name = f"{item.size} {colored(item)}"
        lines.append(f"there is {f'another {name}' if name in told else article(name)} in the {item.position}")
        told.add(name)
    lone = alone(scene)
    return lines + [f"the {a.kind} is {beside(a, b)} the {b.kind}" for a, b in zip(lone, lone[1:], strict=False)]


def _counted(scene: Scene) -> list[str]:
    found = groups(scene.objects)
    lines = [f"we can see {listed([together(g) for g in found])} in a picture of {LANDSCAPE[scene.place]}"]
    for group in found:
        for number, item in enumerate(group):
            who = f"the {item.kind}" if len(group) == 1 else f"{'another' if number else 'one'} {item.kind}"
            color = f"{item.color} and " if len(KINDS[item.kind]) > 1 else ""
            lines.append(f"{who} is {color}{item.size} and is in the {item.position}")
    return lines + _sizes(scene)
