"""How a run is shown to people while it goes on."""
