# Reads a zone with a separate program, through the mapping of a process: see t/tools/slab.c.
package Test::Memstat::Zone;

use strict;
use warnings;

use Exporter 'import';
use Test::More ();

use Test::Memstat::Build qw(program);
use Test::Memstat::Proc qw(maps page_size read_file);

our @EXPORT = qw(agrees mapping mapping_rss zone_reading break_zone mend_zone);

# Returns a process's only shared mapping of a size, which is rounded up to pages.
sub mapping {
    my ($pid, $size) = @_;
    my $page = page_size();
    my $rounded = int(($size + $page - 1) / $page) * $page;
    my @found = grep { $_->{rights} eq 'rw-s' && $_->{size} == $rounded } maps($pid);
    die scalar(@found), " mappings of $rounded bytes in $pid\n" unless @found == 1;
    return $found[0];
}

# Returns the bytes of the mapping that this process has touched, by the kernel's count.
sub mapping_rss {
    my ($pid, $size) = @_;
    my $from = sprintf '%x', mapping($pid, $size)->{from};
    my ($rss) = read_file("/proc/$pid/smaps") =~ /^0*$from-.*?^Rss:\s+(\d+) kB/ms
        or die "no Rss of $from in $pid\n";
    return $rss * 1024;
}

sub run {
    my ($pid, $size, @more) = @_;
    my @command = (program('slab'), $pid, mapping($pid, $size)->{from}, @more);
    open my $out, '-|', @command or die "cannot run @command: $!\n";
    my %reading = map { /^(\S+) (\d+)$/ ? ($1 => $2) : () } <$out>;
    close $out or die "@command failed\n";
    return \%reading;
}

sub zone_reading { return run(@_) }
sub break_zone   { return run(@_, 'break') }
sub mend_zone    { return run(@_, 'mend') }

# Passes if a zone in an answer has the same pages and slots as the program finds.
sub agrees {
    my ($pid, $zone, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $expected = zone_reading($pid, $zone->{size});
    my %got;
    $got{"pages.$_"} = $zone->{pages}{$_} for qw(total used free free_runs largest_free_run);
    for my $size (keys %{ $zone->{slots} }) {
        $got{"slots.$size.$_"} = $zone->{slots}{$size}{$_} for qw(used free reqs fails);
    }
    return Test::More::is_deeply(\%got, $expected, $name);
}

1;
