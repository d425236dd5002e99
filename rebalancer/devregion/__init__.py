"""A Manta region small enough for one machine, to rehearse and to test on."""
