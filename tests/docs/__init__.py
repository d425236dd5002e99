"""The commands of the pages are run, and what they print is compared with what the pages show."""
