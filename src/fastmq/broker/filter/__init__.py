"""Filters: which messages of a queue a consumer gets to see.

| module | what |
| --- | --- |
| `syntax` | the text of an SQL92 filter to a tree, with errors that name line and column |
| `values` | Java's conversions and comparisons, which the filter's rules are made of |
| `expression` | a tree to a closure; a bounded cache of compiled filters |
| `matching` | `MessageFilter`: the one interface that pulls, held pulls and POP use |
| `bloom` | the bloom filter whose bits stand in consumequeue_ext |
| `consumers` | which SQL filters groups have registered (ConsumerFilterManager), kept in consumerFilter.json |

Only `syntax` needs the parser library, and imports it when the first SQL92 filter is compiled.
"""
