"""Which held-out scenes the embedded suites show. Drafts are chosen on other held-out scenes, never on these."""

from functools import cache

import numpy as np

from fastvlm_bench.world.scenes import Scene, sample_scene

SEED = 20261124
SHOWN = {"coco-caption": (0, 200, 1), "vqav2": (1, 120, 2), "describe": (2, 100, 3)}
"""Suite -> (what is added to the seed, number of scenes, fewest objects). The other suites show the same scenes."""


def suite_scenes(suite: str) -> list[Scene]:
    """The scenes that a suite of `SHOWN` shows, all different and held out from the target's training."""
    added, count, min_objects = SHOWN[suite]
    rng, found = np.random.default_rng(SEED + added), dict[str, Scene]()
    while len(found) < count:
        scene = sample_scene(rng, held_out=True, min_objects=min_objects)
        found.setdefault(scene.digest(), scene)
    return list(found.values())


@cache
def shown() -> frozenset[str]:
    """The digests of all scenes that the embedded suites show."""
    return frozenset(scene.digest() for suite in SHOWN for scene in suite_scenes(suite))


def validation_scene(rng: np.random.Generator, min_objects: int = 1) -> Scene:
    """Draw a scene that neither training nor any suite has shown."""
    while (scene := sample_scene(rng, held_out=True, min_objects=min_objects)).digest() in shown():
        pass
    return scene
