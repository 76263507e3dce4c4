-- capacity: how many workers a runtime has.
-- ARGV    2 runtime
-- reads   runtimes, live:<runtime>, warm:<runtime>
-- returns {workers that answer and are not draining, those of them that hold no function}, or nil: no such pool

if call('HEXISTS', RUNTIMES, ARGV[2]) == 0 then return nil end
return {call('SCARD', P .. 'live:' .. ARGV[2]), call('ZCARD', P .. 'warm:' .. ARGV[2])}
