"""Layers of integers without a model's own calibration data."""

import torch

from autotune.compress.integer_forms import IntegerForms
from autotune.compress.metrics import make_metric
from autotune.compress.statistics import Statistics


def random_integer_forms(model, sites):
    """What makes layers of integers, for inputs of which random numbers stand in as the sample."""
    draw = torch.Generator().manual_seed(1)
    moments = {}
    for site in sites:
        rows = torch.randn(64, site.in_features, generator=draw) * (
            1 + torch.arange(site.in_features) % 5
        )
        moments |= {
            f"sample:{site.name}": rows,
            f"low:{site.name}": rows.amin(0),
            f"high:{site.name}": rows.amax(0),
            f"gram:{site.name}": (rows.T @ rows / len(rows)).double(),
        }
    statistics = Statistics(
        moments=moments,
        input_group={site.name: site.name for site in sites},
        rows={site.name: 64 for site in sites},
        rows_per_item={site.name: 1.0 for site in sites},
    )
    return IntegerForms(
        model=model,
        sites=sites,
        metric=make_metric("activation"),
        load_statistics=lambda: statistics,
    )


def random_integer_layers(model, sites, precision):
    """Every second site dense in integers, the others random pairs of rank 8, by name."""
    forms, draw = random_integer_forms(model, sites), torch.Generator().manual_seed(2)
    layers = {}
    for number, site in enumerate(sites):
        if number % 2:
            layers[site.name] = forms.dense(site.name, precision)
        else:
            up = torch.randn(site.out_features, 8, generator=draw) * 0.1
            down = torch.randn(8, site.in_features, generator=draw) * 0.1
            (layers[site.name],) = forms.pair(site, precision, ups=[up], down=down)
    return layers
