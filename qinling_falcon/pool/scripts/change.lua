-- change: marks a cache key as changing, or ends the change with a new generation.
-- include: generations
-- ARGV    2 cache key  3 owner of the change, random  4 a new random generation, or empty: the change begins
-- reads   generations
-- writes  generations
-- promises  while the marker stands (for a minute at most) nobody caches the key; what was resolved before the end of a
--           change is stale after it, also under the marker of another change that is still under way

local value = ARGV[4]
if value == '' then
  value = 'changing ' .. text(now + CHANGING_MS) .. ' ' .. ARGV[3] .. ' -'
else
  local till, owner = string.match(call('HGET', GENERATIONS, ARGV[2]) or '', '^changing (%d+) (%S+)')
  -- The marker of a change that began later stays its own, with other salt.
  if owner and owner ~= ARGV[3] then value = 'changing ' .. till .. ' ' .. owner .. ' ' .. ARGV[4] end
end
call('HSET', GENERATIONS, ARGV[2], value)
return 1
