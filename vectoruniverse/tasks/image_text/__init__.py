"""Pictures and their texts in one space, evaluated by retrieval in both directions."""
