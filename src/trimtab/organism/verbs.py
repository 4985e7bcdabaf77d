"""The verbs of the world in every form that a concept asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        base: `live`; also the name of the relation it states.
        third: `lives`.
        past: `lived`.
        formal: What the formal lexicon puts for `lives`.
        vela: The verb in Vela.
        asks: Question word for what follows it, such as `where`.
    """

    base: str
    third: str
    past: str
    formal: str
    vela: str
    asks: str


_TABLE = """
live     lives     lived      resides          vivu    where
eat      eats      ate        consumes         manu    what
have     has       had        possesses        tenu    what
sleep    sleeps    slept      slumbers         dormu   where
fear     fears     feared     dreads           timu    what
make     makes     made       produces         faru    what
wake     wakes     woke       arises           levu    when
carry    carries   carried    transports       portu   what
consist  consists  consisted  is_composed      estu    of_what
serve    serves    served     is_employed      servu   for_what
rest     rests     rested     is_situated      restu   where
come     comes     came       originates       venu    from_where
cost     costs     cost       is_priced_at     kostu   what
weigh    weighs    weighed    has_a_weight_of  pezu    how_much
need     needs     needed     requires         devu    what
contain  contains  contained  incorporates     havu    what
taste    tastes    tasted     savours          gustu   of_what
stay     stays     stayed     is_preserved     logu    where
go       goes      went       is_served        iru     with_what
appear   appears   appeared   is_presented     aperu   when
please   pleases   pleased    delights         plachu  whom
lie      lies      lay        is_located       kushu   where
attract  attracts  attracted  entices          tiru    whom
sell     sells     sold       purveys          vendu   what
smell    smells    smelled    is_redolent      odoru   of_what
open     opens     opened     is_accessible    malu    when
belong   belongs   belonged   pertains         aparu   to_whom
face     faces     faced      overlooks        frontu  what
bring    brings    brought    delivers         donu    what
follow   follows   followed   succeeds         sekvu   what
last     lasts     lasted     endures          duru    how_long
cover    covers    covered    envelops         kovru   what
end      ends      ended      concludes        finu    when
move     moves     moved      proceeds         movu    how
scare    scares    scared     alarms           shoku   whom
"""

VERBS = {
    words[0]: Verb(*(word.replace("_", " ") for word in words))
    for words in (line.split() for line in _TABLE.strip().splitlines())
}
"""Every verb by its base form."""
