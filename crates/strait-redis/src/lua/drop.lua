-- Deletes a group unless members live.
-- KEYS: members, groups of the topic, everything of the group ..   ARGV: group's name, 1 also while members live
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] == '0' and redis.call('ZCOUNT', KEYS[1], string.format('%.0f', now), '+inf') > 0 then
  return 0
end
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[1], unpack(KEYS, 3))
return 1
