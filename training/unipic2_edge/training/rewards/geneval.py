"""GenEval as a reward: an object detector and CLIP say whether a picture shows what its metadata ask for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..errors import RecipeError, UserError
from .detection import ClipColorNamer, ColorNamer, Detector, TransformersDetector
from .geneval_metadata import Metadata, parse_metadata
from .geneval_rules import Found, Verdict, judge, kept
from .reward import Asked, Picture, Rating, Reward
from .settings import Geneval


class GenevalReward(Reward):
    """Partial credit as the value; GenEval's own strict score as the part `right`.

    Args:
        settings: thresholds.
        detector: finds objects.
        colors: names their colours.
    """

    name = "geneval"

    def __init__(self, settings: Geneval, detector: Detector, colors: ColorNamer) -> None:
        self.settings, self.detector, self.colors = settings, detector, colors

    @classmethod
    def load(cls, settings: Geneval) -> GenevalReward:
        """With the models that the settings name.

        Raises:
            RecipeError: one of them cannot be opened.
        """
        detector = TransformersDetector(settings.detector, settings.device, settings.batch)
        return cls(settings, detector, ClipColorNamer(settings.clip, settings.device))

    def rates(self, asked: Asked) -> bool:
        """Pictures made from words alone."""
        return asked.source is None

    def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        """By each request's record, a metadata line.

        Raises:
            RecipeError: a record is none, or asks for what the detector does not know.
        """
        verdicts = self.verdicts([_metadata(request) for request in asked], pictures)
        return [Rating(verdict.credit, {"right": float(verdict.right), **verdict.parts}) for verdict in verdicts]

    def verdicts(self, asked: Sequence[Metadata], pictures: Sequence[Picture]) -> list[Verdict]:
        """Every picture judged.

        Raises:
            RecipeError: the detector does not know a class that is asked for.
        """
        self.check(asked)
        settings = self.settings
        found = self.detector.find(pictures, min(settings.threshold, settings.counting_threshold))
        return [self._verdict(*each) for each in zip(asked, pictures, found, strict=True)]

    def check(self, asked: Sequence[Metadata]) -> None:
        """Refuse what the detector cannot find.

        Raises:
            RecipeError: it does not know a class that is asked for.
        """
        unknown = {clause.name for each in asked for clause in each.include} - self.detector.names
        if unknown:
            raise RecipeError(
                f"the detector does not know {', '.join(sorted(unknown))}", "use one trained on COCO, or other prompts"
            )

    def _verdict(self, asked: Metadata, picture: Picture, found: Sequence[Found]) -> Verdict:
        objects = kept(found, asked.tag, self.settings)
        return judge(asked, objects, partial(self.colors.name, picture), self.settings.position_threshold)


def _metadata(asked: Asked) -> Metadata:
    try:
        return parse_metadata(asked.record)
    except UserError as error:
        raise RecipeError(f"the reward geneval cannot rate {asked.text!r}: {error.problem}", error.mend) from error
