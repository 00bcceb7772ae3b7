"""The 512 words of the codes: short, easy to say, and no two within one letter of each other. 9 bits each."""

from __future__ import annotations

from typing import Final

_TEXT = """
acorn actor adult agent alarm album alley almond amber anchor angel ankle apple april apron arena armor arrow
artist atlas attic aunt autumn award bacon badge bagel baker balcony bamboo banana banjo barber barrel basil
basket beach beaver bell berry bicycle bishop bison blanket blossom bonus border bottle boxer bracket branch
brandy bread brick bridge broccoli bronze broom brush bucket buffalo bugle bundle bunker butter button cabin
cactus camel camera campus canal candle canoe canvas canyon captain caramel carbon cargo carpet carrot cattle
cedar cello cement ceramic chalk chapel cherry chess chicken chimney circle circus citrus clarinet clay clinic
clock clover cobalt cobra coconut coffee collar colony comet compass concert copper coral cotton cougar cousin
coyote cradle crater cricket crown cruise crystal cupboard curtain cushion cyclone daisy dancer dawn decade
delta denim desert diamond diesel dinner doctor dolphin domino donkey dragon drama dream drum duchess dune
eagle earth easel echo editor elbow elephant eleven emerald emperor engine envelope equator evening fabric
falcon family farmer feather fiddle filter flame flannel flower flute forest fortune fossil fountain fox
freezer friday frost fruit galaxy gallon garage garden garlic gazelle gemstone giant ginger giraffe glacier
glove golf gondola gorilla granite grape gravel guitar gymnast hammer hamster harbor harp harvest hazel heaven
hedgehog helmet herring hickory hockey holiday honey horizon hotel hunter husky iceberg igloo indigo insect
iron island ivory jacket jaguar january jasmine jelly jersey jewel jigsaw journal juice july jungle juniper
kangaroo kayak kennel kettle kimono kingdom kitchen kitten koala ladder lagoon lantern laser laundry lava
lawyer lemon leopard lettuce lilac linen lion liquid lizard lobster logic lotus lunar lunch machine magnet
magpie mammoth mansion maple marble march market marlin mascot mayor meadow medal melon memory mercury meteor
midnight mineral mirror mobile monarch monday morning mosaic motor muffin museum mushroom music mustard napkin
navy nectar needle nephew nickel ninja noodle north nugget nurse nutmeg oasis oatmeal ocean october octopus
office olive omelet onion opera orange orbit orchard orchid organ otter oxygen oyster ozone paddle pajama
palace panda panther papaya paper parade parcel pastry patio peanut pebble pelican pencil penguin pepper
perfume piano pickle picnic pigeon pilot pirate pizza planet plaza pocket poet pony poplar poppy portal
postcard potato powder pretzel prince prism prophet pumpkin puppet purple puzzle pyramid quartz queen quilt
quiver rabbit raccoon radar radio raisin raven recipe reef reptile ribbon river robin robot rodeo rooster rose
ruby rudder saffron sailor salad salmon salsa sandal sapphire satin saturn sausage scarf school scooter
seagull season senator sequel shadow shelter sheriff shuttle sierra signal silver siren skate slipper smoke
snail sofa soldier sonata spider spinach spiral sponge spoon squid stadium stallion station statue stencil
student studio summer sunset surgeon swallow symbol syrup table tango target tavern teacher teapot temple
tennis theater thicket thunder tiger timber toast tomato topaz tornado tower tractor treasure trumpet tulip
tunnel turbine turkey turtle tuxedo twilight umbrella uncle unicorn vampire vanilla velvet venus victory
village vinegar violet violin volcano voyage waffle wagon walnut walrus wasabi water wedding whale whisker
whistle willow window winter wombat wonder yacht yard yogurt zebra zenith zipper zodiac
"""
WORDS: Final[tuple[str, ...]] = tuple(_TEXT.split())
