"""Words people use, in the words pocket knows.

``SYNONYMS`` maps a foreign word (or a phrase of two or three) to known words; the command line
names each replacement.  ``INFLECTED`` are other forms of known words, replaced silently, and
``SILENT`` are words that carry nothing pocket could draw.
"""

from __future__ import annotations


def _spread(table: dict[str, str]) -> dict[str, str]:
    return {word.strip(): known for known, words in table.items() for word in words.split(",")}


SYNONYMS = _spread(
    {
        # Subjects.
        "dog": "puppy,doggy,doggie,pup,hound,terrier,labrador,retriever,poodle,corgi,dachshund,"
        "spaniel,beagle,husky,wolf,fox,canine,mutt,golden retriever,guide dog,bulldog,collie",
        "cat": "kitten,kitty,tabby,tomcat,feline,pussycat,raccoon,lynx",
        "cow": "calf,heifer,cattle,dairy cow",
        "ox": "bull,bison,buffalo,yak,oxen,water buffalo,rhino,rhinoceros,hippo,hippopotamus,bear,gorilla",
        "horse": "pony,stallion,mare,foal,donkey,mule,zebra,unicorn,mustang,colt",
        "ram": "mouflon,bighorn",
        "goat": "kid goat,billy,ibex,chamois",
        "sheep": "lamb,ewe,flock",
        "pig": "piglet,hog,boar,swine,piggy,wild boar",
        "elephant": "mammoth,calf elephant",
        "tiger": "tigress,big cat",
        "leopard": "cheetah,jaguar,panther,puma,cougar,lion,lioness",
        "rabbit": "bunny,hare,hamster,mouse,rat,squirrel,chipmunk,hedgehog",
        "deer": "stag,doe,fawn,reindeer,moose,elk,antelope,gazelle,roe,buck,giraffe",
        "kangaroo": "wallaby,joey,roo",
        "llama": "alpaca,vicuna",
        "camel": "dromedary,camels",
        "rooster": "hen,chicken,cock,chick,turkey,cockerel,peacock,ostrich,emu,bird",
        "duck": "mallard,duckling,drake,ducky,goose,geese,gosling",
        "swan": "cygnet,flamingo,pelican",
        "penguin": "penguins,puffin",
        "turtle": "tortoise,terrapin",
        "crocodile": "alligator,croc,lizard,dinosaur,dragon,gecko,iguana,snake",
        "snail": "slug,worm,caterpillar",
        "whale": "orca,whales,blue whale,killer whale,humpback",
        "dolphin": "porpoise,seal,otter",
        "shark": "great white,sharks,hammerhead",
        "fish": "goldfish,trout,salmon,tuna,carp,clownfish,tropical fish,cod,octopus,squid",
        "butterfly": "moth,bee,dragonfly,ladybug,insect,butterflies,bug,fly insect,bumblebee",
        "owl": "owlet,eagle,hawk,falcon,parrot,crow,raven,pigeon,dove,seagull,gull,sparrow,bat,"
        "robin,stork,heron,vulture",
        "bus": "coach,minibus,trolleybus,school bus,double decker",
        "car": "automobile,taxi,cab,van,jeep,sedan,suv,auto,vehicle,race car,racing car,sports car,"
        "police car,convertible,limousine",
        "truck": "lorry,pickup,fire engine,fire truck,delivery truck,ambulance,trailer",
        "tractor": "bulldozer,excavator,harvester,digger",
        "locomotive": "train,steam train,railway,engine,tram,steam engine,metro,subway,choo choo",
        "rocket": "spaceship,spacecraft,rocketship,space ship,missile,space shuttle,rocket ship,ufo,"
        "shuttle,starship,flying saucer",
        "helicopter": "chopper,copter,drone,heli",
        "airplane": "plane,aeroplane,jet,aircraft,airliner,biplane,glider,jumbo,jumbo jet",
        "sailboat": "ship,boat,sail boat,yacht,sailing boat,vessel,canoe,rowboat,ferry,dinghy,raft,"
        "sailing ship,schooner,catamaran,speedboat,motorboat,kayak,submarine",
        # Places.
        "green hills": "hill,hillside,highlands,mountain,mountains,valley,countryside,hilltop,slope",
        "meadow": "grass,pasture,grassland,prairie,farm,garden,park,lawn,savanna,plain,plains,"
        "flower field,fields,farmland",
        "sea": "seas,oceans,water,lake,river,waves,pond,bay,harbour,harbor,wave,lagoon,underwater,pool,"
        "stream,pacific,atlantic",
        "beach": "shore,seaside,coast,sand,seashore,shoreline,coastline,tropical beach",
        "desert": "sahara,dune,wasteland,sand dunes,canyon,savannah,gobi,mars",
        "snow": "ice,arctic,winter,glacier,antarctica,tundra,north pole,south pole,blizzard,frost,snowfield,icy",
        "forest": "wood,jungle,rainforest,woodland,grove,trees,bamboo forest,pine forest,undergrowth",
        "city": "town,downtown,urban,skyline,streets,road,roads,highway,metropolis,village,buildings,"
        "skyscrapers,new york,paris,london,tokyo,avenue,square,motorway,cityscape,sidewalk",
        # Times of day.
        "dawn": "daybreak,first light,sun rises,mornings,dawning",
        "noon": "daytime,daylight,afternoon,bright day,lunchtime,sunshine,sunlight,summer,"
        "clear day,blue sky,broad daylight",
        "dusk": "twilight,nightfall,golden hour,sundown,evenings,gloaming,sun sets,autumn",
        "night": "midnight,nighttime,moon,full moon,starry,dark night,nocturnal,moonlit,starlight",
        # Motions.
        "walks": "marches,trudges,steps,paces,creeps,crawls,sneaks,saunters,waddles,hikes,moves along,"
        "goes,ambles,treads,prowls,stalks,roams,heads",
        "runs": "sprints,dashes,gallops,jogs,rushes,charges,chases,scurries,bolts,bounds",
        "jumps": "springs,skips,vaults,dances,pounces,dancing,playing,plays,frolics",
        "hops": "hopping,hop",
        "bounces": "bobs,wobbles,shakes",
        "swims": "dives,paddles,cruises,diving",
        "sails": "voyages,navigates,boats,cruising",
        "flies": "zooms past,glides through the,takes off,lands,launches,blasts off,ascends,rises",
        "drives": "motors,cruise,parks,drifts along",
        "floats": "drifts,levitates,bobbing,drifting",
        "rests": "stands,sits,waits,sleeps,lies,standing,sitting,sleeping,stays,idles,resting",
        "in circles": "circling,round and round,spins,spinning,twirls,rotates,around,orbits,loops,"
        "orbiting,turning,in loops",
        "in an arc": "in a curve,loop the loop,parabola,curve",
        "up and down": "upward,upwards,downward,downwards,vertically,up down",
        "left": "leftward,leftwards,westward,west,backward,backwards",
        "right": "rightward,rightwards,eastward,east,forward,forwards,ahead",
        "across": "along,past,towards,toward,onto,into,down the,up the",
        "through": "between,among",
        "over": "beyond,atop",
        "beside": "alongside,by the,adjacent",
        # The camera.
        "the camera pans left": "pan left,camera moves left",
        "the camera pans right": "pan right,camera moves right,tracking shot,pan,dolly",
        "the camera zooms in": "close up,closeup,push in,dolly in",
        "the camera zooms out": "pull back,pull out,dolly out,wide shot",
        "static camera": "fixed camera,tripod,static shot,fixed shot,locked camera,still camera",
        # Props.
        "tree": "oak,birch,apple tree,maple,bush,shrub",
        "evergreen": "pine,fir,spruce,conifer,pine tree,fir tree,christmas tree",
        "palm": "palm tree,coconut tree,coconut,palms",
        "cactus": "cacti,succulent,saguaro",
        "sunflower": "sunflowers",
        "tulip": "tulips,rose,roses",
        "daisy": "flower,flowers,blossom,daisies,wildflower,wildflowers",
        "mushroom": "toadstool,mushrooms,fungus",
        "house": "home,cottage,cabin,barn,building,farmhouse,mansion,villa",
        "hut": "shack,bungalow,tiki hut,hovel",
        "castle": "palace,fortress,tower",
        "tent": "campsite,camp,teepee,yurt,tipi",
        "rock": "stone,boulder,stones,boulders,cliff",
        "snowman": "snowmen,snow man",
        "umbrella": "parasol,beach umbrella,sunshade",
        "island": "isle,islands,islet,desert island",
        "fountain": "well,fountains,spring fountain",
        "circus tent": "carnival,big top,fair",
        "flowery": "blooming,floral",
        "grassy": "lush,verdant",
        "slow": "slowly,gently,softly,gradually,gentle",
    }
)

_FORMS = {
    "walks": "walk,walked",
    "strolls": "stroll,strolling,strolled",
    "runs": "run,ran",
    "wanders": "wander,wandering,wandered",
    "drives": "drive,drove",
    "rolls": "roll,rolled",
    "travels": "travel,traveling,travelling,moving,move",
    "swims": "swim,swam",
    "glides": "glide,gliding,glided",
    "sails": "sail,sailed",
    "flies": "fly,flew",
    "flutters": "flutter,fluttering,fluttered",
    "soars": "soar,soaring,soared",
    "trots": "trot,trotting,trotted",
    "hurries": "hurry,hurrying,hurried",
    "races": "race,racing,raced",
    "speeds": "speed,speeding,sped",
    "jumps": "jump,jumped",
    "bounces": "bounce,bounced",
    "leaps": "leap,leaping,leapt,leaped",
    "floats": "float,floated",
    "hovers": "hover,hovering,hovered",
    "rests": "rest,rested",
    "rocks": "rocking,rocked",
    "moves": "moved",
    "swoops": "swoop,swooping,swooped",
    "pans": "panned",
    "zooms": "zoomed",
    "is": "are,was,were,s",
    "hills": "hill",
    "in": "inside,within",
    "street": "streets",
    "field": "fields",
    "dunes": "dune",
} | {
    name: name + "s"
    for name in (
        "dog",
        "cat",
        "cow",
        "horse",
        "goat",
        "pig",
        "elephant",
        "tiger",
        "leopard",
        "rabbit",
        "kangaroo",
        "llama",
        "camel",
        "rooster",
        "duck",
        "swan",
        "turtle",
        "crocodile",
        "snail",
        "dolphin",
        "owl",
        "car",
        "truck",
        "tractor",
        "locomotive",
        "rocket",
        "helicopter",
        "airplane",
        "sailboat",
        "beach",
        "forest",
        "meadow",
        "house",
        "tent",
        "castle",
        "hut",
    )
}

INFLECTED = _spread(_FORMS)

SILENT = frozenset(
    word
    for line in (
        "of with from as it its this that these those there here while then his her their my your our",
        "one some very really so just both all who which for but or be been being has have had do",
        "does little small big large tiny huge giant cute lovely beautiful pretty happy sad young old",
        "baby adult brown black red yellow orange pink purple grey gray golden silver colourful",
        "colorful bright video clip scene shot movie film footage picture image photo animation",
        "cartoon animated storybook style realistic cinematic hd quality high detailed detail smooth",
        "toy friendly sky air cloud clouds sun view background foreground distance horizon world land",
        "ground rides riding quickly fast happily calmly peacefully quietly steadily alone together",
        "away back off two three several many s t",
    )
    for word in line.split()
)
