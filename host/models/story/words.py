"""Word lists that the stories are made from."""

GIRLS = """Lily Anna Mia Emma Rose Lucy Sara Ella Kate Nora Ruby Jane Clara Molly Grace Alice Eva Ida Zoe Maya Sophie
Maria Lena Ruth Ivy Nina Olga Tess Bella Julia Amy Laura Nelly Rita Vera Paula Greta Mary Ann Sally""".split()
BOYS = """Tom Ben Max Sam Jack Leo Tim Finn Oscar Will Noah Peter Henry Paul Theo Adam Hugo Luke Toby Dan John Karl
Emil Felix Simon David Otto Ali Omar Ravi Juan Marco Pablo Ivan James George Charlie Fred""".split()
PETS = """Pip Rusty Dot Fluff Bo Nibbles Coco Pepper Button Hazel Ollie Daisy Tilly Bruno Momo Socks Bubbles Ginger
Fuzzy Snowy Spot Muffin Cookie Bella Tiny Whiskers Patch Sunny Willow Berry Scout Misty""".split()
HEROES = """rabbit mouse fox bear cat dog duck hedgehog squirrel frog pig monkey owl turtle beaver goat mole elephant
penguin lamb lion tiger horse cow donkey wolf giraffe crow hen goose sheep deer bat seal snail crab whale
parrot camel zebra dragon bee""".split()
TRADES = """prince princess farmer baker gardener sailor fisherman shepherd painter tailor singer wizard robot giant
knight pirate miller cook pilot""".split()
TOYS = """ball kite doll drum bell book lamp box basket bag blanket flute puzzle hat boat train car bear horse bucket
whistle top umbrella lantern spoon cup clock key pencil brush rope sled wagon scarf cap glove ring mirror
marble boot candle violin trumpet puppet balloon shovel ship plane truck bicycle pillow feather shell
necklace crown map compass""".split()
SMALL = """turtle snail mouse ant hedgehog hen duck mole worm rabbit sparrow frog squirrel bee lamb""".split()
COLORS = """red blue green yellow white black brown orange pink purple gray golden silver""".split()
STUFF = """bread butter cheese milk honey sugar salt rice soup""".split()
GROWN = {"she": ["Mom", "Grandma", "Aunt Rose", "Mother"], "he": ["Dad", "Grandpa", "Uncle Bill", "Father"]}
SNACKS = ["apple", "pear", "cookie", "pie", "pancake", "piece of cake", "loaf of bread", "bowl of soup",
          "honey cake", "carrot", "orange", "bag of nuts", "piece of cheese", "sandwich", "basket of berries",
          "pot of honey", "banana", "peach", "plum", "slice of bread", "jar of jam", "bag of cherries",
          "bowl of rice", "bun", "lemon cake", "potato", "pumpkin pie", "basket of strawberries",
          "cup of hot chocolate", "egg", "bunch of grapes"]
SPOTS = ["the park", "the garden", "the forest", "the beach", "the meadow", "the lake", "the river", "the village",
         "the market", "the farm", "the hill", "the playground", "the library", "the old barn", "the pond",
         "the mill", "the bakery", "the castle", "the harbor", "the bridge", "the cave", "the island", "the field",
         "the train station"]
