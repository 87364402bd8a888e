"""What a template's clones read while they boot: recorded, merged over several boots, kept, drawn."""
