"""What the rules of a recipe know of the data and the machine."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ClassFacts:
    """One class in the training masks.

    Attributes:
        name: of the class.
        share: of the labeled pixels.
        width: median over the images of the class's mean width, twice its area over the length of its border; pixels.
            Infinite if no mask that was looked at has the class.
        height_offset: mean over the images of the height of its center: -1 is the top of the image, 1 the bottom.
        height_error: standard error of `height_offset`; infinite for less than two images.
        masks: number of masks that were looked at and have the class.
    """

    name: str
    share: float
    width: float = float("inf")
    height_offset: float = 0.0
    height_error: float = float("inf")
    masks: int = 0


@dataclass(frozen=True)
class ObjectFacts:
    """The objects of the training images.

    Attributes:
        count: of all images.
        most: largest number in one image.
        empty: number of images without an object.
        sizes: 10, 30, 50, 70 and 90 % quantiles of the square roots of their areas, pixels.
        ratios: 20, 50 and 80 % quantiles of height over width of their boxes.
    """

    count: int
    most: int
    empty: int
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Facts:
    """The training data in numbers.

    Attributes:
        images: number of training images, or of their tiles.
        height: median height, pixels; the median longer side if many images are upright and many are not.
        width: median width, pixels; likewise.
        classes: those that the training masks have.
        looked_at: number of masks that the classes' shapes are from.
        evaluated_pixels: pixels of all validation images.
        turned: whether many images are upright and many are not.
        small_side: 10 % of the images have a longer side of at most this, pixels; None if all are about as large.
        on_cpu: whether the training computes on a CPU.
        devices: number of devices.
        fitting: images that fit into the memory of a device at a time; None if that is not known.
        objects: of the training images; None if pixels are classified.
    """

    images: int
    height: int
    width: int
    classes: tuple[ClassFacts, ...]
    looked_at: int
    evaluated_pixels: int
    turned: bool = False
    small_side: int | None = None
    on_cpu: bool = True
    devices: int = 1
    fitting: int | None = None
    objects: ObjectFacts | None = None

    def reduced(self, factor: int) -> "Facts":
        """Return the facts of the same images at 1/factor of their height and width."""
        return replace(
            self,
            height=-(-self.height // factor),
            width=-(-self.width // factor),
            classes=tuple(replace(each, width=each.width / factor) for each in self.classes),
            evaluated_pixels=self.evaluated_pixels // factor**2,
            small_side=None if self.small_side is None else -(-self.small_side // factor),
        )

    @property
    def size(self) -> str:
        """The size of the images as a clause."""
        if self.turned:
            return f"the median image is {self.height} pixels long, upright or across"
        return f"the median image is {self.height} x {self.width}"

    @property
    def narrowest(self) -> ClassFacts:
        """The class with the least width."""
        return min(self.classes, key=lambda each: each.width)
