"""A coarse word for all classes of a dataset, such as bird, found from their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Words in class names that say what kind of thing a class is.
_KINDS = {
    "bird": (
        "albatross ani auk auklet avocet bananaquit barbet bee-eater bird bittern blackbird bluebird bobolink "
        "bobwhite booby bulbul bullfinch bunting bushtit buzzard canary caracara cardinal catbird chat chickadee "
        "chicken chuck chuck-will's-widow cockatoo coot cormorant cowbird crane creeper crossbill crow cuckoo "
        "curlew dickcissel dipper dove dowitcher duck dunlin eagle egret eider falcon finch flamingo flicker "
        "flycatcher frigatebird fulmar gadwall gallinule gannet geococcyx godwit goldeneye goldfinch goose goshawk "
        "grackle grebe grosbeak grouse guillemot gull harrier hawk heron hornbill hummingbird ibis jacana jaeger "
        "jay junco kestrel killdeer kingbird kingfisher kinglet kite kittiwake knot lapwing lark limpkin longspur "
        "loon lorikeet macaw magpie mallard martin meadowlark merganser merlin mockingbird murre murrelet nighthawk "
        "nightjar nutcracker nuthatch oriole osprey ostrich ovenbird owl oystercatcher parakeet parrot partridge "
        "parula peacock peafowl pelican penguin petrel pewee phalarope pheasant phoebe pigeon pintail pipit plover "
        "ptarmigan puffin pyrrhuloxia quail rail raven redhead redpoll redstart roadrunner robin rook ruff "
        "sanderling sandpiper sapsucker sayornis scaup scoter shearwater shoveler shrike siskin skimmer snipe "
        "solitaire sora sparrow spoonbill starling stilt stork surfbird swallow swan swift tanager tattler teal "
        "tern thrasher thrush titmouse toucan towhee trogon turkey turnstone veery verdin violetear vireo vulture "
        "wagtail warbler waterthrush waxwing whimbrel whip whip-poor-will wigeon willet woodcock woodpecker wren "
        "yellowlegs yellowthroat"
    ),
    "flower": (
        "alpine-thistle anemone anthurium azalea balloon-flower bee-balm begonia bellflower blossom bougainvillea "
        "buttercup camellia canna carnation clematis columbine cosmos crocus cyclamen daffodil dahlia daisy "
        "dandelion delphinium flower foxglove frangipani fritillary gazania geranium gladiolus hellebore hibiscus "
        "hyacinth hydrangea iris jasmine lavender lily lotus magnolia mallow marigold morning-glory nasturtium "
        "orchid pansy passionflower peony petunia poinsettia poppy primrose primula protea rose snapdragon snowdrop "
        "sunflower sweet-pea thistle tulip violet wallflower water-lily wisteria zinnia"
    ),
    "car": (
        "acura audi bentley bmw bugatti buick cadillac chevrolet chrysler citroen convertible coupe dodge ferrari "
        "fiat ford gmc hatchback honda hummer hyundai infiniti isuzu jaguar jeep kia lamborghini lexus lincoln "
        "maserati maybach mazda mclaren mercedes-benz minivan mitsubishi nissan peugeot plymouth porsche renault "
        "rolls-royce saab scion sedan skoda smart subaru suv suzuki tesla toyota volkswagen volvo wagon"
    ),
    "aircraft": (
        "airbus aircraft airplane antonov atr beechcraft boeing bombardier canadair cessna concorde crj dassault "
        "embraer falcon fokker gulfstream learjet lockheed mcdonnell md-11 md-80 piper saab spitfire tornado "
        "tupolev"
    ),
    "dog": (
        "affenpinscher akita basenji beagle bloodhound borzoi boxer briard bulldog bullmastiff chihuahua chow "
        "collie corgi dachshund dalmatian dane deerhound dhole dingo dinmont doberman dog elkhound foxhound "
        "greyhound groenendael hound husky keeshond kelpie komondor kuvasz labradoodle leonberg malamute malinois "
        "maltese mastiff newfoundland papillon pekinese pinscher pointer pomeranian poodle pug pyrenees retriever "
        "ridgeback rottweiler saluki samoyed schipperke schnauzer setter sheepdog shepherd shih-tzu spaniel spitz "
        "springer terrier vizsla weimaraner whippet wolfhound"
    ),
    "butterfly": (
        "admiral apollo blue brimstone butterfly comma copper emperor fritillary hairstreak heath monarch ringlet "
        "skipper sulphur swallowtail"
    ),
    "mushroom": "agaric amanita bolete chanterelle fungus morel mushroom puffball russula toadstool truffle",
    "fish": (
        "anemonefish bass carp catfish cod eel fish flounder goby grouper guppy haddock halibut herring mackerel "
        "perch pike salmon shark snapper sole sturgeon tetra trout tuna wrasse"
    ),
}
KINDS = {kind: frozenset(words.split()) for kind, words in _KINDS.items()}


def coarse_word(classnames: Sequence[str]) -> str | None:
    """Return the kind that the names of all classes fit, None where they fit none, or several equally well.

    A name fits a kind if its last word is of it, or else any of its words: "Blue Jay" is a bird, though there are
    butterflies called blues.
    """
    for words_of in (_last_words, _words):
        fits = [kind for kind, words in KINDS.items() if all(words_of(name) & words for name in classnames)]
        if classnames and len(fits) == 1:
            return fits[0]
    return None


def _words(name: str) -> set[str]:
    """Return the words of a name, hyphenated ones whole and in parts, each also without a plural's s."""
    whole = re.findall(r"[\w'-]+", name.casefold().replace("’", "'").replace("_", " "))
    words = {*whole, *(part for word in whole for part in word.split("-"))}
    return words | {word.removesuffix("s") for word in words}


def _last_words(name: str) -> set[str]:
    return _words(name.split()[-1]) if name.split() else set()
