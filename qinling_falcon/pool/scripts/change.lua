-- change: marks a cache key as changing, or ends the change with a new generation.
-- ARGV    2 cache key  3 owner of the change, random  4 a new random generation, or empty: the change begins
-- reads   generations
-- writes  generations
-- promises  While the marker stands (for a minute at most), no process caches the key. A target that was resolved
--           before the end of a change is stale after it, even if another change of the key is still in progress.

local value = ARGV[4]
if value == '' then
  value = 'changing ' .. text(now + CHANGING_MS) .. ' ' .. ARGV[3] .. ' -'
else
  local till, owner = string.match(call('HGET', GENERATIONS, ARGV[2]) or '', '^changing (%d+) (%S+)')
  -- The marker of a change that started later stays, with a new salt.
  if owner and owner ~= ARGV[3] then value = 'changing ' .. till .. ' ' .. owner .. ' ' .. ARGV[4] end
end
call('HSET', GENERATIONS, ARGV[2], value)
return 1
