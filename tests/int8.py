"""Layers in 8 bits without a model's own calibration data."""

import torch

from autotune.compress.int8_forms import Int8Forms
from autotune.compress.metrics import make_metric
from autotune.compress.statistics import Statistics


def random_int8_forms(model, sites):
    """What makes 8-bit layers, for inputs of which random numbers stand in as the sample."""
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
    return Int8Forms(
        model=model,
        sites=sites,
        metric=make_metric("activation"),
        load_statistics=lambda: statistics,
    )


def random_int8_layers(model, sites, precision):
    """Every second site dense in 8 bits, the others random pairs of rank 8, by name."""
    forms, draw = random_int8_forms(model, sites), torch.Generator().manual_seed(2)
    layers = {}
    for number, site in enumerate(sites):
        if number % 2:
            layers[site.name] = forms.dense(site, precision)
        else:
            up = torch.randn(site.out_features, 8, generator=draw) * 0.1
            down = torch.randn(8, site.in_features, generator=draw) * 0.1
            (layers[site.name],) = forms.pair(site, precision, ups=[up], down=down)
    return layers
