-- capacity: how many workers a runtime has.
-- ARGV    5 runtime
-- reads   runtimes, live:<runtime>, warm:<runtime>      writes  nothing
-- returns {workers that answer and are not draining, those of them that hold no function}, or nil: no such pool

if call('HEXISTS', RUNTIMES, ARGV[5]) == 0 then return nil end
return {call('SCARD', P .. 'live:' .. ARGV[5]), call('ZCARD', P .. 'warm:' .. ARGV[5])}
