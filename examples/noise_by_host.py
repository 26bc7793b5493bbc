"""Noise ratio by host: which sites supply texts that do not describe their images?

    python examples/noise_by_host.py RUN

RUN is a run directory whose first round is done, for example runs/quickstart. The noise ratio is dropped /
judged; candidates without a verdict are not counted. Images from paths are listed under an empty host.
"""

import sys

import duckdb

candidates = f"{sys.argv[1].rstrip('/')}/rounds/1/*/*.parquet"
print(
    duckdb.sql(
        f"""
        SELECT regexp_extract(lower(url), '^https?://(?:[^/@]*@)?([^/:?#]+)', 1) AS host,
            origin,
            count(*) AS judged,
            round(avg((NOT kept)::INT), 3) AS noise_ratio,
            round(avg((itm_prob < 0.3)::INT), 3) AS at_threshold_0_3
        FROM '{candidates}'
        WHERE kept IS NOT NULL
        GROUP BY ALL
        ORDER BY judged DESC, host, origin DESC
        LIMIT 40
        """
    )
)
