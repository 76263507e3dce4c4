-- generations: compares the generations under which a target was resolved with the present ones.

local GENERATIONS = P .. 'generations'
local CHANGING_MS = 60000  -- when the marker of a change expires, if its process has died

-- A stored generation as callers see it: the value, 'changing <owner> <salt>' under a marker, or nil when it is missing
-- or its marker has expired.
local function generation(stored)
  if not stored then return nil end
  local till, mark = string.match(stored, '^changing (%d+) (.*)$')
  if till then return tonumber(till) > now and 'changing ' .. mark or nil end
  return stored
end

-- The place of the first pair of (cache key, generation) in list[first..] that is not current; nil: all are.
local function first_stale(list, first)
  if first > #list then return nil end
  local names = {}
  for at = first, #list, 2 do names[#names + 1] = list[at] end
  local stored = call('HMGET', GENERATIONS, unpack(names))
  for at = 1, #names do
    if generation(stored[at]) ~= list[first + at * 2 - 1] then return first + at * 2 - 2 end
  end
  return nil
end

-- Whether all pairs of (cache key, generation) in list[first..] are current.
local function current(list, first)
  return first_stale(list, first) == nil
end
